"""CSV in, CSV out: questions and contexts from a table, answers into another.

Finds the columns whatever their order and case, checks every row before the first is answered,
reads and writes in chunks, and keeps further columns. Knows nothing of how answers are found.
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from qa.errors import UserError
from qa.outputs import whole_file
from qa.spans import Answer
from qa.squad import Example

READ = ("Context", "Question")
WRITTEN = ("Answer", "Score", "Start", "End")
CHUNK_ROWS = 4096
"""Rows that are sorted by length together, and the most that are in memory at a time."""


def count_rows(path: Path) -> int:
    """Check a whole input table and count its rows.

    Raises:
        UserError: the file is missing or not CSV in UTF-8, a column is missing, twice there or
            would be overwritten, or a row has an empty question or context; the message names the
            row, counted from 1 below the header.
    """
    rows = 0
    for chunk in _chunks(path):
        for column in READ:
            empty = chunk[column].str.strip() == ""
            if empty.any():
                row = rows + int(empty.to_numpy().argmax()) + 1
                raise UserError(f"{path}: row {row}: {column} is empty; fill it or drop the row")
        rows += len(chunk)
    return rows


def answer_table(
    path: Path, output: Path, answer: Callable[[Sequence[Example]], Sequence[Answer]]
) -> None:
    """Answer every row of `path` and write `output`.

    The columns of the output are Context, Question, Answer, Score (0 to 1, six decimals), Start and
    End (characters of the context, End exclusive), then the input's further columns.

    Args:
        answer: answers a chunk of examples, in their order.
    """
    with whole_file(output) as partial:
        header = True
        for chunk in _chunks(path):
            examples = [
                Example(str(row), question, context)
                for row, (context, question) in enumerate(
                    zip(chunk["Context"], chunk["Question"], strict=True)
                )
            ]
            answers = answer(examples)
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


_FIELDS = {"Answer": "text", "Score": "score", "Start": "start", "End": "end"}


def _chunks(path: Path) -> Iterator[pd.DataFrame]:
    """Chunks of the table, text as it stands, Context and Question first; one at least."""
    try:
        with (
            warnings.catch_warnings(),
            pd.read_csv(
                path,
                header=None,  # pandas would rename columns of one name
                dtype=str,
                na_filter=False,
                encoding="utf-8-sig",
                chunksize=CHUNK_ROWS,
            ) as reader,
        ):
            warnings.simplefilter("error", pd.errors.ParserWarning)
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
                yield rows
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set infer.input in params.yaml") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: {_where_not_utf8(path)}; save it as UTF-8") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: empty; expected a header with Context and Question") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise UserError(f"{path}: {_what_is_wrong(path) or error}") from None


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
    """Name the first line that is not UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: not UTF-8 (byte {line[error.start]:#04x})"
    return "not UTF-8"


def _what_is_wrong(path: Path) -> str | None:
    """Name the first row that is not like the header."""
    csv.field_size_limit(sys.maxsize)  # a context may be longer than the module's 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader)
            for row, fields in enumerate(reader, 1):
                if len(fields) > len(header):
                    return (
                        f"row {row}: {len(fields)} fields, the header has {len(header)};"
                        " put quotes around text with commas"
                    )
        except csv.Error as error:
            return f"line {reader.line_num}: {error}; close the quotes"
    return None
