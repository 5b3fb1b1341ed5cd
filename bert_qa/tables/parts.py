"""Tables in parts: planned once, each answered and written whole, put together at the end.

A part is some chunks of one input file. What is finished is noted beside the parts, so that a run
that was killed, on one machine or on many, answers only what is missing. Does not know who answers
them.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from bert_qa.errors import UserError
from bert_qa.files import resumable_file, resumable_folder
from bert_qa.storage import (
    files_below,
    is_url,
    open_file,
    remove_below,
    write_file,
    writing,
)
from bert_qa.tables.table import Answered, Table, module_of

CHUNKS_A_PART = 16
"""At most: larger parts are fewer files, and more to answer again when a machine is taken away."""

PARTS = 64
"""At least, where a table has as many chunks: several for each session of a cluster."""

NOTES = "_unfinished"
PLAN = "plan.json"


@dataclass(frozen=True)
class Part:
    """Some chunks of one table.

    Attributes:
        name: of its file, below the folder of parts.
        table: these chunks of it.
        begins: whether a file of the output begins with it.
        whole: whether its file is one of the output's format, or chunks as they are encoded.
    """

    name: str
    table: Table
    begins: bool
    whole: bool


@dataclass(frozen=True)
class Written:
    """What is noted of a part that is written.

    Attributes:
        rows: how many it has.
        size: of its file, in bytes.
        formulas: cells that a spreadsheet would compute.
    """

    rows: int
    size: int
    formulas: int


def plan(tables: Mapping[str, Table], *, folder: bool) -> list[Part]:
    """Cut tables into parts; the cut depends on nothing but the tables.

    Args:
        tables: by the names that their files have below the output, in their order.
        folder: whether the output is a folder of parts, each a file, or one file of all of them.

    Raises:
        UserError: two files would have one name.
    """
    chunks = sum(len(table.chunks) for table in tables.values())
    most = max(1, min(CHUNKS_A_PART, chunks // PARTS))
    parts: list[Part] = []
    for name, table in tables.items():
        path = PurePosixPath(name)
        suffix = module_of(table.format, table.location).SUFFIXES[0]
        begins = range(0, len(table.chunks), most)
        for number, first in enumerate(begins):
            several = f"-{number:05}" if len(begins) > 1 else ""
            file = str(path.with_name(f"{path.stem}{several}{suffix}"))
            parts.append(
                Part(
                    file if folder else f"{len(parts):07}",
                    table.part(first, first + most),
                    begins=folder or not parts,
                    whole=folder,
                )
            )
    (often, times), *_ = Counter(part.name for part in parts).most_common(1)
    if times > 1:
        raise UserError(f"infer.input: two files would be answered into {often}; rename one")
    return parts


@contextmanager
def output_in_parts(output: str, *, folder: bool) -> Iterator[tuple[str, str]]:
    """Hold an output that is written in parts, until the block ends.

    In Azure Storage nothing is renamed: the parts of a folder are written where they stay.

    Args:
        output: a path, or a URL of Azure Storage.
        folder: whether it is a folder.

    Yields:
        The folder of the parts; and of a file, the place to write it.

    Raises:
        UserError: it cannot be written, or is a folder with other files.
    """
    if not is_url(output):
        path = Path(output)
        if folder:
            with resumable_folder(path) as partial:
                yield str(partial), ""
        else:
            with resumable_file(path) as partial:
                yield str(partial.parent), str(partial)
    elif folder:
        found = files_below(output)
        if found and not any(name.startswith(f"{NOTES}/") for name in found):
            raise UserError(f"{output}: not an empty folder; name a new one, or remove it")
        yield output, ""
    else:
        parent, _, name = output.rpartition("/")
        yield f"{parent}/.{name}.partial", output
        remove_below(f"{parent}/.{name}.partial")


class Notes:
    """What is done of a run, in a folder beside its parts.

    Attributes:
        done: by the names of parts.
        outdated: whether there was the work of another run, now removed.
    """

    def __init__(self, folder: str, identity: str) -> None:
        """Read the notes of a run, or begin them.

        Args:
            folder: of the parts.
            identity: names the input, the model and all else that the answers depend on.
        """
        self._folder = _notes(folder)
        content = json.dumps({"identity": identity}).encode()
        sizes = files_below(folder)
        found = [name for name in sizes if name.startswith(f"{NOTES}/") and name.endswith(".json")]
        self.outdated = bool(found) and not (
            f"{NOTES}/{PLAN}" in found and _read(f"{self._folder}/{PLAN}") == content
        )
        if self.outdated:
            found = []
        self.done: dict[str, Written] = {}
        if not found:
            _empty(folder)
            write_file(f"{self._folder}/{PLAN}", content)
        for name in found:
            if name == f"{NOTES}/{PLAN}":
                continue
            note = json.loads(_read(f"{folder}/{name}"))
            if sizes.get(note["name"]) == note["written"]["size"]:
                self.done[note["name"]] = Written(**note["written"])

    def remove(self) -> None:
        """Remove the notes of a run that has ended."""
        if is_url(self._folder):
            remove_below(self._folder)
        else:
            shutil.rmtree(self._folder)


def read_note(folder: str, part: Part) -> Written | None:
    """What is noted of a part; None if it is not done."""
    try:
        note = json.loads(_read(_note(folder, part.name)))
    except (UserError, FileNotFoundError):
        return None
    return Written(**note["written"])


def write_part(folder: str, part: Part, chunks: Iterable[Answered]) -> Written:
    """Write a part, then note that it is done.

    Args:
        folder: of the parts.
        chunks: all of the part's.
    """
    module = module_of(part.table.format, part.table.location)
    content, rows, formulas = io.BytesIO(), 0, 0
    for chunk in chunks:
        content.write(chunk.encoded.content)
        rows, formulas = rows + chunk.rows, formulas + chunk.encoded.formulas
    if part.whole:
        content.seek(0)
        whole = io.BytesIO()
        module.join([content], whole)
        content = whole
    write_file(f"{folder}/{part.name}", content.getvalue())
    written = Written(rows, len(content.getvalue()), formulas)
    note = {"name": part.name, "written": asdict(written)}
    write_file(_note(folder, part.name), json.dumps(note).encode())
    return written


def join_parts(folder: str, parts: Sequence[Part], output: str) -> None:
    """Write one file of parts that are chunks."""
    module = module_of(parts[0].table.format, parts[0].table.location)

    def opened() -> Iterator[BinaryIO]:
        for part in parts:
            with open_file(f"{folder}/{part.name}") as file:
                yield file

    with writing(output) as whole:
        module.join(opened(), whole)


def _notes(folder: str) -> str:
    return f"{folder}/{NOTES}"


def _note(folder: str, name: str) -> str:
    key = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()  # names may have slashes
    return f"{_notes(folder)}/{key}.json"


def _read(location: str) -> bytes:
    with open_file(location) as file:
        return file.read()


def _empty(folder: str) -> None:
    if is_url(folder):
        remove_below(folder)
        return
    for entry in Path(folder).iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
