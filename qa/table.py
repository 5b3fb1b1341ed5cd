"""CSV in, CSV out: questions and contexts from a table, answers into another.

Finds the columns whatever their order and case, checks every row before the first is answered,
reads and writes in chunks, and keeps further columns. Knows nothing of how answers are found.
"""

from __future__ import annotations

import csv
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qa.errors import UserError
from qa.outputs import whole_file
from qa.spans import Answer
from qa.squad import Example

READ = ("Context", "Question")
WRITTEN = ("Answer", "Score", "Start", "End")
CHUNK_ROWS = 2048
"""Rows that are sorted by length together."""

CHUNK_CHARACTERS = 2_000_000
"""Characters of context after which a chunk ends, however few its rows: what bounds the memory."""


def check_table(path: Path, output: Path) -> int:
    """Check a whole input table, and that `output` can be written, before any work is done.

    The quotes are read strictly here: pandas takes text after a closing quote as it comes and so
    may swallow rows.

    Returns:
        The number of rows.

    Raises:
        UserError: the file is missing or not CSV in UTF-8, a column is missing, twice there or
            would be overwritten, or a row has too many fields or an empty question or context; the
            message names the row, counted from 1 below the header.
    """
    if output.is_dir():
        raise UserError(f"{output}: a folder; name a file in infer.output")
    csv.field_size_limit(sys.maxsize)  # a context may be longer than the module's 128 KiB
    row = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            names = _column_names(path, next(reader))
            for fields in filter(None, reader):  # blank lines are no rows
                row += 1
                _check_row(f"{path}: row {row}", names, fields)
    except StopIteration:
        raise UserError(f"{path}: empty; expected a header with Context and Question") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set infer.input in params.yaml") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: {_where_not_utf8(path)}") from None
    except csv.Error as error:
        raise UserError(f"{path}: row {row + 1}: {error}; mend its quotes") from None
    return row


def _check_row(where: str, names: list[str], fields: list[str]) -> None:
    if len(fields) > len(names):
        raise UserError(
            f"{where}: {len(fields)} fields, the header has {len(names)};"
            " put quotes around text with commas"
        )
    for column in READ:
        at = names.index(column)
        text = fields[at] if at < len(fields) else ""
        if not any(letter.isprintable() and not letter.isspace() for letter in text):
            raise UserError(f"{where}: {column} is empty; fill it or drop the row")
    if any("\0" in field for field in fields):
        raise UserError(f"{where}: a NUL character in it; take it out")


def answer_table(
    path: Path,
    output: Path,
    answer_chunks: Callable[[Iterable[Sequence[Example]]], Iterable[Sequence[Answer]]],
) -> None:
    """Answer every row of `path`, a table that `check_table` passed, and write `output`.

    The columns of the output are Context, Question, Answer, Score (0 to 1, six decimals), Start and
    End (characters of the context, End exclusive), then the input's further columns.

    Args:
        answer_chunks: answers chunks of examples, in their order; may read some chunks ahead.
    """
    unanswered: deque[pd.DataFrame] = deque()

    def examples() -> Iterator[list[Example]]:
        # itertools.tee would keep dozens of chunks that both sides are done with.
        for chunk in _chunks(path):
            unanswered.append(chunk)
            yield _examples(chunk)

    with whole_file(output) as partial:
        header = True
        source = examples()
        for answers in answer_chunks(source):
            chunk = unanswered.popleft()
            for at, name in enumerate(WRITTEN, len(READ)):
                values = [getattr(a, _FIELDS[name]) for a in answers]
                chunk.insert(at, name, values)
            chunk.to_csv(
                partial,
                mode="w" if header else "a",
                header=header,
                index=False,
                float_format="%.6f",
                lineterminator="\n",
                # All text in quotes: bare ones would let a lone carriage return end the row.
                quoting=csv.QUOTE_NONNUMERIC,
            )
            header = False
        if unanswered or next(source, None) is not None:
            raise RuntimeError(f"{path}: fewer answers than chunks")


_FIELDS = {"Answer": "text", "Score": "score", "Start": "start", "End": "end"}


def _examples(chunk: pd.DataFrame) -> list[Example]:
    return [
        Example(str(row), question, context)
        for row, context, question in zip(
            chunk.index, chunk["Context"], chunk["Question"], strict=True
        )
    ]


def _chunks(path: Path) -> Iterator[pd.DataFrame]:
    """Chunks of a checked table, text as it stands, Context and Question first; one at least."""
    with pd.read_csv(
        path,
        header=None,  # pandas would rename columns of one name
        dtype=str,
        na_filter=False,
        encoding="utf-8-sig",
        chunksize=CHUNK_ROWS,
    ) as reader:
        names: list[str] = []
        for chunk in reader:
            rows = chunk.fillna("")
            if not names:
                names = _column_names(path, [str(name) for name in rows.iloc[0]])
                rows = rows.iloc[1:]
            first = [names.index(name) for name in READ]
            order = [*first, *(at for at in range(len(names)) if at not in first)]
            rows = rows.iloc[:, order]
            rows.columns = pd.Index([names[at] for at in order])
            ends = rows["Context"].str.len().cumsum().to_numpy() // CHUNK_CHARACTERS
            starts = [0, *(np.flatnonzero(np.diff(ends)) + 1), len(rows)]
            for start, stop in itertools.pairwise(starts):
                yield rows.iloc[start:stop]


def _column_names(path: Path, found: list[str]) -> list[str]:
    """The names of the columns, with ours spelled our way."""
    ours = {name.lower(): name for name in (*READ, *WRITTEN)}
    names = [ours.get(name.strip().lower(), name) for name in found]
    for name in READ:
        if names.count(name) != 1:
            separator = next((s for s in (";", "\t") if s in found[0]), None)
            hint = f"; the fields are separated by {separator!r}: use commas" if separator else ""
            times = "no column" if name not in names else "more than one column"
            raise UserError(f"{path}: {times} {name} in the header {', '.join(found)}{hint}")
    for name in WRITTEN:
        if name in names:
            raise UserError(f"{path}: column {name} is one that the answers need; rename it")
    return names


def _where_not_utf8(path: Path) -> str:
    """Say what a file that is not UTF-8 is, or where it stops being that."""
    with path.open("rb") as lines:
        if lines.read(4) == b"PK\x03\x04":
            return "an Excel workbook; save it as CSV (UTF-8)"
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: not UTF-8 (byte {line[error.start]:#04x}); save it as UTF-8"
    return "not UTF-8; save it as UTF-8"
