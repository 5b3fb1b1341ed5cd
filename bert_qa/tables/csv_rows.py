"""CSV, read strictly and written exactly.

Takes what spreadsheets leave around a table, refuses what would be read two ways, and counts the
cells that a spreadsheet would compute.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, BinaryIO

import pandas as pd

from bert_qa.errors import UserError
from bert_qa.formats import LONGEST, other_format
from bert_qa.spans import Answer
from bert_qa.tables.rows import (
    BOM,
    ERROR,
    READ,
    SCORE_DECIMALS,
    WRITTEN,
    Encoded,
    Record,
    Row,
    our_names,
)

NAME = "CSV"
SUFFIX = ".csv"
JOINED = True

FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  # full-width forms count as well
"""What a cell begins with that spreadsheets take for a formula (OWASP, CSV Injection)."""


@dataclass(frozen=True)
class Columns:
    """Of a CSV file.

    Attributes:
        names: in the order of the file, ours spelt our way.
        order: places in `names` as they are written: Context and Question first.
    """

    names: list[str]
    order: list[int]


def columns(file: BinaryIO, path: str, reserved: Sequence[str]) -> Columns:
    """The header; see `bert_qa.tables.rows.Format`."""
    for _, found, _ in _fields(file, path, None):
        names = our_names(path, found, reserved, _no_csv(found[0]))
        first = [names.index(name) for name in READ]
        return Columns(names, [*first, *(at for at in range(len(names)) if at not in first)])
    raise UserError(f"{path}: empty; expected a header with Context and Question")


def records(
    file: BinaryIO, path: str, columns: Columns, position: int | None = None
) -> Iterator[Record]:
    """The rows, by Python's strict `csv` module; see `bert_qa.tables.rows.Format`.

    Lines that are blank or hold only separators, as spreadsheets leave them, are no rows.
    """
    size = len(columns.names)
    rows = _fields(file, path, position)
    if position is None:
        next(rows)  # the header
    for begins, fields, hint in rows:
        surplus = fields[size:]
        padded = [*fields[:size], *[""] * (size - len(fields))]
        context, question, *further = (padded[at] for at in columns.order)
        error = None
        if surplus:
            error = (
                f"{len(fields)} fields, the header has {size} (put quotes around text with commas)"
            )
        elif any("\0" in text for text in further):
            error = "a NUL character in it"
        yield Record(
            position=begins,
            context=context,
            question=question,
            further=further,
            characters=sum(map(len, padded)),
            error=error,
            lost=f"; left out: {', '.join(map(repr, surplus))}" if surplus else "",
            hint=hint,
        )


def encode(
    columns: Columns,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    *,
    keep_errors: bool,
    first: bool,
    escape_formulas: bool,
) -> Encoded:
    """Context, Question, answer and further columns; see `bert_qa.tables.rows.Format`."""
    added = (*WRITTEN, ERROR) if keep_errors else WRITTEN
    lines = []
    for row, answer in zip(rows, answers, strict=True):
        cells: list[Any] = [answer.text, answer.score, answer.start, answer.end]
        lines.append(
            [
                *(row.context, row.question, *cells),
                *([row.error or ""] if keep_errors else []),
                *row.further,
            ]
        )
    found = [columns.names[at] for at in columns.order]
    names = [*found[: len(READ)], *added, *found[len(READ) :]]
    frame = pd.DataFrame(lines, columns=pd.Index(names))
    formulas = _formulas(frame.itertuples(index=False, name=None))
    formulas += _formulas([found]) if first else 0
    if escape_formulas:
        frame = frame.map(_escaped).rename(columns=_escaped)
    text: str = frame.to_csv(
        None,
        header=first,
        index=False,
        float_format=f"%.{SCORE_DECIMALS}f",
        lineterminator="\n",
        # All text in quotes: bare ones would let a lone carriage return end the row.
        quoting=csv.QUOTE_NONNUMERIC,
    )
    return Encoded(text.encode(), formulas)


def join(chunks: Iterable[BinaryIO], output: BinaryIO) -> None:
    """Copy chunks, which are a file as they are; see `bert_qa.tables.rows.Format`."""
    for some in chunks:
        shutil.copyfileobj(some, output)


def _formulas(rows: Iterable[Sequence[Any]]) -> int:
    """How many cells a spreadsheet would take for a formula."""
    return sum(
        isinstance(cell, str) and cell.startswith(FORMULA_STARTS) for row in rows for cell in row
    )


def _escaped(cell: Any) -> Any:
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return f"'{cell}"
    return cell


def _fields(
    file: BinaryIO, path: str, position: int | None
) -> Iterator[tuple[int, list[str], str]]:
    """The header and the rows, or the rows from a position on.

    Yields:
        Where a row begins, in bytes; its fields; and a hint for errors of the row, mostly empty.
    """
    csv.field_size_limit(sys.maxsize)  # a context may be longer than the module's 128 KiB
    start = _after_marks(file, path) if position is None else position
    file.seek(start)
    text = TextIOWrapper(file, encoding="utf-8", newline="")
    lines = _Lines(text, start)
    reader = csv.reader(lines, strict=True)
    number = 0 if position is None else 1
    try:
        while True:
            begins = lines.position
            try:
                fields = next(reader, None)
            except csv.Error as error:
                if number:
                    raise UserError(f"{path}: row {number}: {error}; fix its quotes") from None
                raise UserError(f"{path}: the header: {error}{_no_csv(lines.last)}") from None
            except UnicodeDecodeError:
                raise UserError(f"{path}: {_where_not_utf8(file)}") from None
            except OSError as error:  # which names no file when reading fails
                raise OSError(error.errno, error.strerror, path) from None
            if fields is None:
                return
            if any(field.strip() for field in fields):
                yield begins, fields, lines.hint()
                number += 1
    finally:
        with suppress(ValueError):  # its owner closed it
            text.detach()


def _after_marks(file: BinaryIO, path: str) -> int:
    """Where the text begins: some programs add a byte order mark to a file that has one."""
    file.seek(0)
    if (found := other_format(file.read(LONGEST), "save it as CSV (UTF-8)")) is not None:
        raise UserError(f"{path}: {found}")
    marks = 0
    file.seek(0)
    while file.read(len(BOM)) == BOM:
        marks += 1
    return marks * len(BOM)


class _Lines:
    """Lines of a file, where they lie, and whether lone carriage returns are among other line ends.

    Attributes:
        last: the line that was read last.
        position: where the next one begins, in bytes.
    """

    def __init__(self, lines: Iterable[str], position: int) -> None:
        self._lines = iter(lines)
        self._number = 0
        self._lone = 0  # the last line that ended in one
        self._others = False
        self.position = position
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = line = next(self._lines)
        self.position += len(line) if line.isascii() else len(line.encode())
        self._number += 1
        if line.endswith("\r"):
            self._lone = self._number
        else:
            self._others = True
        return line

    def hint(self) -> str:
        """What to add to an error of the row that was read last."""
        if self._others and self._number - 1 <= self._lone:
            return (
                f" (line {self._lone} ends in a lone carriage return: put quotes around text that"
                " has one)"
            )
        return ""


def _no_csv(start: str) -> str:
    """What a file seems to be whose header is not ours, by its first field."""
    if start.lstrip().startswith(("{", "[")):
        return "; it seems to be JSON: write one object a line, or save it as CSV"
    if start.lstrip().startswith("<"):
        return "; it seems to be HTML or XML: save it as CSV"
    separator = next((s for s in (";", "\t", "|") if s in start), None)
    return f"; the fields are separated by {separator!r}: use commas" if separator else ""


def _where_not_utf8(file: BinaryIO) -> str:
    """Say where a file stops being UTF-8."""
    file.seek(0)
    for number, line in enumerate(file, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"line {number}: not UTF-8 (byte {line[error.start]:#04x}); save it as UTF-8"
    return "not UTF-8; save it as UTF-8"
