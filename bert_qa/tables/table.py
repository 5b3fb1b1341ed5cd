"""A table that is checked whole before the first row is answered, and answered chunk by chunk.

Tells formats apart by what is in a file, remembers where each chunk begins, and goes on where a
killed run stopped. Leaves what a row looks like to the formats, and knows nothing of how answers
are found.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from bert_qa.errors import NAMED, UserError, listed
from bert_qa.journal import Journal, Progress
from bert_qa.spans import Answer
from bert_qa.squad import Example
from bert_qa.storage import State, open_file, state_of
from bert_qa.tables.rows import (
    BOM,
    ERROR,
    NO_ANSWER,
    WRITTEN,
    Encoded,
    Format,
    OnError,
    Record,
    Row,
    text_error,
)

AnswerChunks = Callable[[Iterable[Sequence[Example]]], Iterable[Sequence[Answer]]]
"""Answers chunks of examples, in their order; may read some chunks ahead."""

CHUNK_ROWS = 2048
"""Rows that are sorted by length together."""

CHUNK_CHARACTERS = 2_000_000
"""Characters after which a chunk ends, however few its rows: what bounds the memory."""

SUFFIXES = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
"""The formats that there are, by what names of files end in."""


@dataclass(frozen=True)
class Chunk:
    """Rows that are sorted by length together.

    Attributes:
        first: the number of its first row.
        rows: how many.
        position: where its format begins to read.
    """

    first: int
    rows: int
    position: int


@dataclass(frozen=True)
class Table:
    """An input table that was checked, or some chunks of it.

    Attributes:
        location: a path, or a URL of Azure Storage.
        format: one of `SUFFIXES`.
        columns: what the format knows of it.
        chunks: one at least, without rows if there are none.
        bad: how many rows cannot be answered, and are kept with an error.
        state: of the file when it was checked.
    """

    location: str
    format: str
    columns: Any
    chunks: tuple[Chunk, ...]
    bad: int
    on_error: OnError
    max_context_characters: int
    state: State

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(chunk.rows for chunk in self.chunks)

    def part(self, first: int, end: int) -> Table:
        """Some of its chunks, by their places; `bad` stays the whole table's."""
        return replace(self, chunks=self.chunks[first:end])


def format_of(location: str) -> str:
    """The format of a file, by its first bytes; of one that is empty, by its name.

    Raises:
        UserError: it is not there.
    """
    with open_file(location) as file:
        start = file.read(1024)
    if not start:
        return SUFFIXES.get(PurePosixPath(location).suffix.lower(), "csv")
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.removeprefix(BOM).lstrip().startswith(b"{") else "csv"


def module_of(name: str, location: str) -> Format:
    """What knows a format.

    Args:
        location: of the table, for an error.

    Raises:
        UserError: a library that it needs is not installed.
    """
    if name == "csv":
        from bert_qa.tables import csv_rows

        return csv_rows
    if name == "jsonl":
        from bert_qa.tables import json_lines

        return json_lines
    try:
        from bert_qa.tables import parquet
    except ModuleNotFoundError:
        raise UserError(
            f"{location}: a Parquet file, which needs pyarrow: pip install 'bert-qa[tables]', or"
            " save it as CSV"
        ) from None
    return parquet


def check_table(
    location: str | Path,
    *,
    on_error: OnError = "fail",
    max_context_characters: int = CHUNK_CHARACTERS,
) -> Table:
    """Check a whole input table before any work is done.

    Args:
        location: a path, or a URL of Azure Storage.
        on_error: `fail` refuses a table with rows that cannot be answered; `keep` lets them
            through, to be written with an empty answer and the reason in a column Error.
        max_context_characters: a context or a question of more cannot be answered.

    Raises:
        UserError: the file is missing or of no format that is known, a column is missing, twice
            there or would be overwritten, or a row has no form, an empty question, or a context
            that is empty or too long; the message counts these rows, which are counted from 1
            (below the header), and names the first.
    """
    location = str(location)
    state = state_of(location)
    name = format_of(location)
    module = module_of(name, location)
    reserved = (*WRITTEN, ERROR) if on_error == "keep" else WRITTEN
    bad = 0
    named: list[str] = []
    with open_file(location) as file:
        columns = module.columns(file, location, reserved)

        def sizes() -> Iterator[tuple[int, int]]:
            nonlocal bad
            for number, record in enumerate(module.records(file, location, columns), 1):
                if (error := text_error(record, max_context_characters)) is not None:
                    bad += 1
                    if bad <= NAMED:
                        named.append(f"row {number}: {error}{record.hint}")
                yield record.position, record.characters

        chunks = tuple(_chunks(sizes()))
    if bad and on_error == "fail":
        count, them = (f"{bad} rows cannot be answered: ", "them") if bad > 1 else ("", "it")
        raise UserError(
            f"{location}: {count}{listed(named, bad)}; fix or drop {them}, or set"
            " infer.on_error=keep"
        )
    return Table(location, name, columns, chunks, bad, on_error, max_context_characters, state)


def _chunks(rows: Iterable[tuple[int, int]]) -> Iterator[Chunk]:
    """Cut rows, given by position and size, into chunks; one at least."""
    number = first = 1
    begins: int | None = None
    characters = 0
    for number, (position, size) in enumerate(rows, 2):
        begins = position if begins is None else begins
        characters += size
        if number - first >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield Chunk(first, number - first, begins)
            first, begins, characters = number, None, 0
    if begins is not None or number == 1:
        yield Chunk(first, number - first, begins or 0)


def read_chunks(table: Table) -> Iterator[list[Row]]:
    """The rows of a table, chunk by chunk."""
    module = module_of(table.format, table.location)
    if not table.rows:
        yield from ([] for _ in table.chunks)
        return
    with open_file(table.location) as file:
        begins = table.chunks[0].position
        records = module.records(file, table.location, table.columns, begins)
        for chunk in table.chunks:
            yield [
                _row(chunk.first + i, record, table.max_context_characters)
                for i, record in enumerate(itertools.islice(records, chunk.rows))
            ]


def _row(number: int, record: Record, max_characters: int) -> Row:
    error = text_error(record, max_characters)
    context, question = (
        text if isinstance(text, str) else "" for text in (record.context, record.question)
    )
    return Row(
        number,
        context,
        question,
        record.further,
        None if error is None else error + record.lost,
    )


@dataclass(frozen=True)
class Answered:
    """A chunk with its answers, as bytes of the output's format."""

    rows: int
    encoded: Encoded


def answered_chunks(
    tables: Iterable[tuple[Table, bool]],
    answer_chunks: AnswerChunks,
    *,
    escape_formulas: bool = False,
) -> Iterator[Answered]:
    """Answer tables chunk by chunk.

    The columns of the output are Context, Question, Answer, Score (0 to 1, six decimals), Start and
    End (characters of the context, End exclusive), Error if the table keeps rows that cannot be
    answered, then the input's further columns.

    Args:
        tables: each with whether its first chunk begins a file of the output.
        escape_formulas: put `'` before a cell that spreadsheets take for a formula.

    Raises:
        UserError: the input changed since it was checked.
    """
    unanswered: deque[tuple[Table, bool, list[Row]]] = deque()

    def examples() -> Iterator[list[Example]]:
        # itertools.tee would keep dozens of chunks that both sides are done with.
        for table, begins in tables:
            first = begins
            for rows in read_chunks(table):
                unanswered.append((table, first, rows))
                first = False
                yield [
                    Example(str(row.number), row.question, row.context)
                    for row in rows
                    if row.error is None
                ]

    source = examples()
    for answers in answer_chunks(source):
        table, first, rows = unanswered.popleft()
        module = module_of(table.format, table.location)
        given = iter(answers)
        every = [NO_ANSWER if row.error is not None else next(given) for row in rows]
        encoded = module.encode(
            table.columns,
            rows,
            every,
            keep_errors=table.on_error == "keep",
            first=first,
            escape_formulas=escape_formulas,
        )
        if state_of(table.location) != table.state:
            raise UserError(
                f"{table.location}: it changed while it was read; run the same command again"
            )
        yield Answered(len(rows), encoded)
    if unanswered or next(source, None) is not None:
        raise RuntimeError("fewer answers than chunks")


def answer_table(
    table: Table,
    output: Path,
    journal: Journal,
    answer_chunks: AnswerChunks,
    *,
    escape_formulas: bool = False,
) -> Progress:
    """Answer the rows of a table that are not in its output yet; see `answered_chunks`.

    Args:
        output: the file to write, which need not be there.
        journal: beside `waiting_file(table, output)`, which it knows the length of.

    Returns:
        What is written in the end.

    Raises:
        UserError: the input changed since it was checked.
    """
    module = module_of(table.format, table.location)
    progress = journal.progress
    waiting = waiting_file(table, output)
    with waiting.open("r+b" if progress.written else "wb") as file:
        file.truncate(progress.written)
        file.seek(progress.written)
        left = table.part(progress.chunks, len(table.chunks))
        for answered in answered_chunks(
            [(left, not progress.chunks)], answer_chunks, escape_formulas=escape_formulas
        ):
            file.write(answered.encoded.content)
            file.flush()
            os.fsync(file.fileno())  # before the journal counts on it
            progress = Progress(
                progress.chunks + 1,
                progress.rows + answered.rows,
                file.tell(),
                progress.formulas + answered.encoded.formulas,
            )
            journal.advance(progress)
    if waiting != output:
        with waiting.open("rb") as parts, output.open("wb") as whole:
            module.join([parts], whole)
    return progress


def waiting_file(table: Table, output: Path) -> Path:
    """Where chunks are written: `output`, unless its format is written as a whole."""
    module = module_of(table.format, table.location)
    return output if module.JOINED else output.with_name("chunks")
