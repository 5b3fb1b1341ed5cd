"""CSV in, CSV out: questions and contexts from a table, answers into another.

Finds the columns whatever their order and case, checks every row before the first is answered,
reads and writes in chunks, keeps further columns, and goes on where a killed run stopped. Knows
nothing of how answers are found.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bert_qa.errors import NAMED, UserError, listed
from bert_qa.formats import LONGEST, other_format
from bert_qa.journal import Journal, Progress
from bert_qa.spans import Answer
from bert_qa.squad import Example

READ = ("Context", "Question")
WRITTEN = ("Answer", "Score", "Start", "End")
ERROR = "Error"
CHUNK_ROWS = 2048
"""Rows that are sorted by length together."""

CHUNK_CHARACTERS = 2_000_000
"""Characters after which a chunk ends, however few its rows: what bounds the memory."""

FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  # full-width forms count as well
"""What a cell begins with that spreadsheets take for a formula (OWASP, CSV Injection)."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """A row of the input.

    Attributes:
        number: counted from 1 below the header.
        fields: in the order of `Table.names`, Context and Question first.
        error: why it cannot be answered; None if it can.
    """

    number: int
    fields: list[str]
    error: str | None


@dataclass(frozen=True)
class Table:
    """An input table that was checked.

    Attributes:
        names: of the columns, Context and Question first, then the further ones.
        rows: how many there are.
        bad: how many of them cannot be answered, and are kept with an error.
    """

    path: Path
    names: list[str]
    rows: int
    bad: int
    on_error: Literal["fail", "keep"]
    max_context_characters: int
    state: tuple[int, ...]


@dataclass(frozen=True)
class _Header:
    names: list[str]
    order: list[int]


def check_table(
    path: Path,
    *,
    on_error: Literal["fail", "keep"] = "fail",
    max_context_characters: int = CHUNK_CHARACTERS,
) -> Table:
    """Check a whole input table before any work is done.

    Args:
        on_error: `fail` refuses a table with rows that cannot be answered; `keep` lets them
            through, to be written with an empty answer and the reason in a column Error.
        max_context_characters: a context or a question of more cannot be answered.

    Raises:
        UserError: the file is missing or not CSV in UTF-8, a column is missing, twice there or
            would be overwritten, or a row has too many fields, an empty question, or a context
            that is empty or too long; the message counts these rows, which are counted from 1
            below the header, and names the first.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a CSV file in infer.input")
    if not path.exists():
        raise UserError(f"{path}: no such file; check infer.input")
    if not path.is_file():
        raise UserError(
            f"{path}: not a regular file, but a device or a pipe, which cannot be read twice;"
            " save the table to a file"
        )
    state = _state(path)
    reserved = (*WRITTEN, ERROR) if on_error == "keep" else WRITTEN
    header: _Header | None = None
    rows = bad = 0
    named: list[str] = []
    for number, fields, hint in _records(path):
        if header is None:
            header = _header(path, fields, reserved)
            continue
        rows = number
        if (error := _error(header.names, fields, max_context_characters)) is not None:
            bad += 1
            if bad <= NAMED:
                named.append(f"row {number}: {error}{hint}")
    if header is None:
        raise UserError(f"{path}: empty; expected a header with Context and Question")
    if bad and on_error == "fail":
        count, them = (f"{bad} rows cannot be answered: ", "them") if bad > 1 else ("", "it")
        raise UserError(
            f"{path}: {count}{listed(named, bad)}; fix or drop {them}, or set infer.on_error=keep"
        )
    names = [header.names[at] for at in header.order]
    return Table(path, names, rows, bad, on_error, max_context_characters, state)


def answer_table(
    table: Table,
    output: Path,
    journal: Journal,
    answer_chunks: Callable[[Iterable[Sequence[Example]]], Iterable[Sequence[Answer]]],
    *,
    escape_formulas: bool = False,
) -> Progress:
    """Answer the rows of a table that are not in `output` yet.

    The columns of the output are Context, Question, Answer, Score (0 to 1, six decimals), Start and
    End (characters of the context, End exclusive), Error if the table keeps rows that cannot be
    answered, then the input's further columns.

    Args:
        output: what is written so far, as `journal` knows it.
        answer_chunks: answers chunks of examples, in their order; may read some chunks ahead.
        escape_formulas: put `'` before a cell that spreadsheets take for a formula.

    Returns:
        What is written in the end.

    Raises:
        UserError: the input changed since it was checked.
    """
    unanswered: deque[list[Row]] = deque()
    progress = journal.progress

    def examples() -> Iterator[list[Example]]:
        # itertools.tee would keep dozens of chunks that both sides are done with.
        for chunk in itertools.islice(_chunks(table), progress.chunks, None):
            unanswered.append(chunk)
            yield [
                Example(str(row.number), row.fields[1], row.fields[0])
                for row in chunk
                if row.error is None
            ]

    with output.open("r+b" if progress.written else "wb") as file:
        file.truncate(progress.written)
        file.seek(progress.written)
        source = examples()
        for answers in answer_chunks(source):
            chunk = unanswered.popleft()
            frame = _frame(table, chunk, answers)
            header = not progress.written
            cells = _formulas(frame.itertuples(index=False, name=None))
            cells += _formulas([table.names]) if header else 0
            if escape_formulas:
                frame = frame.map(_escaped).rename(columns=_escaped)
            file.write(_csv(frame, header=header))
            file.flush()
            os.fsync(file.fileno())  # before the journal counts on it
            if _state(table.path) != table.state:  # before the journal counts on the answers
                raise UserError(
                    f"{table.path}: it changed while it was read; run the same command again"
                )
            progress = Progress(
                progress.chunks + 1,
                progress.rows + len(chunk),
                file.tell(),
                progress.formulas + cells,
            )
            journal.advance(progress)
        if unanswered or next(source, None) is not None:
            raise RuntimeError(f"{table.path}: fewer answers than chunks")
    return progress


def _frame(table: Table, chunk: Sequence[Row], answers: Sequence[Answer]) -> pd.DataFrame:
    given = iter(answers)
    lines = []
    for row in chunk:
        answer = next(given) if row.error is None else Answer("", 0.0, 0, 0)
        cells: list[str | float] = [answer.text, answer.score, answer.start, answer.end]
        if table.on_error == "keep":
            cells.append(row.error or "")
        lines.append([*row.fields[: len(READ)], *cells, *row.fields[len(READ) :]])
    added = (*WRITTEN, ERROR) if table.on_error == "keep" else WRITTEN
    names = [*table.names[: len(READ)], *added, *table.names[len(READ) :]]
    return pd.DataFrame(lines, columns=pd.Index(names))


def _csv(frame: pd.DataFrame, *, header: bool) -> bytes:
    text: str = frame.to_csv(
        None,
        header=header,
        index=False,
        float_format="%.6f",
        lineterminator="\n",
        # All text in quotes: bare ones would let a lone carriage return end the row.
        quoting=csv.QUOTE_NONNUMERIC,
    )
    return text.encode()


def _formulas(rows: Iterable[Sequence[Any]]) -> int:
    """How many cells a spreadsheet would take for a formula."""
    return sum(
        isinstance(cell, str) and cell.startswith(FORMULA_STARTS) for row in rows for cell in row
    )


def _escaped(cell: Any) -> Any:
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return f"'{cell}"
    return cell


def _chunks(table: Table) -> Iterator[list[Row]]:
    """The rows of a table in chunks; one at least, without rows if there are none."""
    records = _records(table.path)
    _, found, _ = next(records)
    header = _header(table.path, found, ())
    chunk: list[Row] = []
    characters = 0
    empty = True
    for number, fields, _ in records:
        error = _error(header.names, fields, table.max_context_characters)
        surplus = fields[len(header.names) :]
        if error is not None and surplus:
            error += f"; left out: {', '.join(map(repr, surplus))}"
        padded = [*fields, *[""] * (len(header.names) - len(fields))]
        row = Row(number, [padded[at] for at in header.order], error)
        chunk.append(row)
        characters += sum(map(len, row.fields))
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters, empty = [], 0, False
    if chunk or empty:
        yield chunk


def _records(path: Path) -> Iterator[tuple[int, list[str], str]]:
    """The header and the rows of a CSV file, by Python's strict `csv` module.

    Lines that are blank or hold only separators, as spreadsheets leave them, are no rows.

    Yields:
        Its number, 0 for the header; the fields; and a hint for errors of the row, mostly empty.
    """
    csv.field_size_limit(sys.maxsize)  # a context may be longer than the module's 128 KiB
    number = 0
    with _opened(path) as text:
        lines = _Lines(text)
        reader = csv.reader(lines, strict=True)
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                if number:
                    raise UserError(f"{path}: row {number}: {error}; fix its quotes") from None
                raise UserError(f"{path}: the header: {error}{_no_csv(lines.last)}") from None
            except UnicodeDecodeError:
                raise UserError(f"{path}: {_where_not_utf8(path)}") from None
            except OSError as error:  # which names no file when reading fails
                raise OSError(error.errno, error.strerror, str(path)) from None
            if fields is None:
                return
            if any(field.strip() for field in fields):
                yield number, fields, lines.hint()
                number += 1


@contextmanager
def _opened(path: Path) -> Iterator[TextIOWrapper]:
    """Open a file as UTF-8, after its byte order marks; line ends as they are."""
    with path.open("rb") as content:
        if (found := other_format(content.read(LONGEST), "save it as CSV (UTF-8)")) is not None:
            raise UserError(f"{path}: {found}")
        marks = 0  # some programs add a second one to a file that has one
        content.seek(0)
        while content.read(len(BOM)) == BOM:
            marks += 1
        content.seek(marks * len(BOM))
        yield TextIOWrapper(content, encoding="utf-8", newline="")


class _Lines:
    """Lines of a file, and whether lone carriage returns are among other line ends.

    Attributes:
        last: the line that was read last.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._number = 0
        self._lone = 0  # the last line that ended in one
        self._others = False
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = line = next(self._lines)
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


def _header(path: Path, found: list[str], reserved: Sequence[str]) -> _Header:
    """The names of the columns, ours spelled our way, and the order in which they are written."""
    ours = {name.lower(): name for name in (*READ, *reserved)}
    names = [ours.get(name.strip().lower(), name) for name in found]
    for name in READ:
        if names.count(name) != 1:
            times = "no column" if name not in names else "more than one column"
            raise UserError(
                f"{path}: {times} {name} in the header {', '.join(found)[:200]}{_no_csv(found[0])}"
            )
    for name in reserved:
        if name in names:
            raise UserError(f"{path}: column {name!r} is reserved for the output; rename it")
    first = [names.index(name) for name in READ]
    return _Header(names, [*first, *(at for at in range(len(names)) if at not in first)])


def _no_csv(start: str) -> str:
    """What a file seems to be whose header is not ours, by its first field."""
    if start.lstrip().startswith(("{", "[")):
        return "; it seems to be JSON: save it as CSV"
    if start.lstrip().startswith("<"):
        return "; it seems to be HTML or XML: save it as CSV"
    separator = next((s for s in (";", "\t", "|") if s in start), None)
    return f"; the fields are separated by {separator!r}: use commas" if separator else ""


def _error(names: Sequence[str], fields: Sequence[str], max_context_characters: int) -> str | None:
    """Why a row cannot be answered; None if it can."""
    if len(fields) > len(names):
        return (
            f"{len(fields)} fields, the header has {len(names)} (put quotes around text with"
            " commas)"
        )
    for column in READ:
        at = names.index(column)
        text = fields[at] if at < len(fields) else ""
        if not any(letter.isprintable() and not letter.isspace() for letter in text):
            return f"{column} is empty"
        if len(text) > max_context_characters:
            return (
                f"{column} has {len(text)} characters, more than infer.max_context_characters"
                f" ({max_context_characters})"
            )
    if any("\0" in field for field in fields):
        return "a NUL character in it"
    return None


def _state(path: Path) -> tuple[int, ...]:
    """What changes with the content of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _where_not_utf8(path: Path) -> str:
    """Say where a file stops being UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: not UTF-8 (byte {line[error.start]:#04x}); save it as UTF-8"
    return "not UTF-8; save it as UTF-8"
