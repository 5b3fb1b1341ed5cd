"""What a file is, by its first bytes, when it is not the text that was expected.

Knows the formats that people name by mistake; the text itself is for others to read.
"""

from __future__ import annotations

SIGNATURES = {
    b"\xff\xfe": ("text in UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8"),
    b"PK\x03\x04": ("an Excel workbook or a zip archive", None),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", None),
    b"PAR1": ("a Parquet file", None),
    b"ARROW1": ("an Arrow file", None),
    b"\xff\xff\xff\xff": ("an Arrow stream", None),
    b"SQLite format 3": ("an SQLite database", None),
    b"%PDF": ("a PDF", None),
    b"\x1f\x8b": ("compressed by gzip", "unpack it"),
    b"BZh": ("compressed by bzip2", "unpack it"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself: git lfs pull"),
}
"""The kind of a file and, where it is the same for every reader, what to do, by its first bytes."""

LONGEST = max(map(len, SIGNATURES))


def other_format(start: bytes, remedy: str) -> str | None:
    """What a file is and what to do, if it is none of text in UTF-8.

    Args:
        start: its first `LONGEST` bytes, or more.
        remedy: what to do with a file that has to be converted, such as `save it as CSV`.
    """
    for signature, (kind, own_remedy) in SIGNATURES.items():
        if start.startswith(signature):
            return f"{kind}; {own_remedy or remedy}"
    return None
