"""Rows of a table, whatever its format: their columns, what cannot be answered, and chunks.

Says what a format has to know, see `Format`. Knows no format itself, and nothing of how answers are
found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

from bert_qa.errors import UserError
from bert_qa.spans import Answer

READ = ("Context", "Question")
WRITTEN = ("Answer", "Score", "Start", "End")
ERROR = "Error"
SCORE_DECIMALS = 6

BOM = b"\xef\xbb\xbf"
"""Of UTF-8: some programs begin a file with one."""

OnError = Literal["fail", "keep"]


@dataclass(frozen=True)
class Record:
    """A row as its format reads it.

    Attributes:
        position: where its format can begin to read at it again.
        context, question: what stands there, which need not be text.
        further: the other columns, in the form that `Format.encode` takes.
        characters: how large the row is.
        error: what is wrong with its form, such as too many fields.
        lost: what to add to the error of a row that is kept: the fields that have no place.
        hint: what to add to an error of the row when it is refused.
    """

    position: int
    context: Any
    question: Any
    further: Any
    characters: int
    error: str | None = None
    lost: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the input.

    Attributes:
        number: counted from 1.
        further: see `Record`.
        error: why it cannot be answered; None if it can.
    """

    number: int
    context: str
    question: str
    further: Any
    error: str | None


@dataclass(frozen=True)
class Encoded:
    """Rows with their answers, as bytes of the output.

    Attributes:
        formulas: cells among them that a spreadsheet would compute.
    """

    content: bytes
    formulas: int = 0


class Format(Protocol):
    """What a module does that knows a format: reads records, writes rows with their answers."""

    NAME: str
    """In messages."""

    SUFFIX: str
    """Of the files that are written."""

    JOINED: bool
    """Whether what `encode` gave, one chunk after the other, is a file."""

    def columns(self, file: BinaryIO, path: str, reserved: Sequence[str]) -> Any:
        """What the format must know of a table before its first row.

        Args:
            path: what to call the file in errors.
            reserved: names that the input may not have.

        Raises:
            UserError: the columns are not ours.
        """

    def records(
        self, file: BinaryIO, path: str, columns: Any, position: int | None = None
    ) -> Iterator[Record]:
        """The rows of a file, from the beginning or from a position.

        Args:
            columns: what `columns` said of it.

        Raises:
            UserError: the file is not of the format from some place on.
        """

    def encode(
        self,
        columns: Any,
        rows: Sequence[Row],
        answers: Sequence[Answer],
        *,
        keep_errors: bool,
        first: bool,
        escape_formulas: bool,
    ) -> Encoded:
        """Write a chunk.

        Args:
            answers: one a row, `NO_ANSWER` of a row with an error.
            keep_errors: whether there is a column of errors.
            first: whether it is the first of its file.
            escape_formulas: put `'` before a cell that spreadsheets take for a formula.
        """

    def join(self, chunks: Iterable[BinaryIO], output: BinaryIO) -> None:
        """Make a file of what `encode` gave.

        Args:
            chunks: files of one chunk or more each, at their beginning.
        """


NO_ANSWER = Answer("", 0.0, 0, 0)


def text_error(record: Record, max_characters: int) -> str | None:
    """Why a row cannot be answered; None if it can.

    Args:
        max_characters: that a context or a question may have.
    """
    if record.error is not None:
        return record.error
    for column, text in zip(READ, (record.context, record.question), strict=True):
        if text is not None and not isinstance(text, str):
            return f"{column} is {text!r:.40}, not text"
        if not text or not any(letter.isprintable() and not letter.isspace() for letter in text):
            return f"{column} is empty"
        if len(text) > max_characters:
            return (
                f"{column} has {len(text)} characters, more than infer.max_context_characters"
                f" ({max_characters})"
            )
        if "\0" in text:
            return "a NUL character in it"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"{column} is no Unicode text at character {error.start}"
    return None


def our_names(
    path: str, found: Sequence[str], reserved: Sequence[str], advice: str = ""
) -> list[str]:
    """The names of the columns, ours spelt our way.

    Args:
        path: of the file, for errors.
        reserved: names that the input may not have.
        advice: what to add where a column is missing.

    Raises:
        UserError: one of ours is missing or twice there, or a name is reserved.
    """
    ours = {name.lower(): name for name in (*READ, *reserved)}
    names = [ours.get(name.strip().lower(), name) for name in found]
    for name in READ:
        if names.count(name) != 1:
            times = "no column" if name not in names else "more than one column"
            raise UserError(
                f"{path}: {times} {name} in the header {', '.join(found)[:200]}{advice}"
            )
    for name in reserved:
        if name in names:
            raise UserError(f"{path}: column {name!r} is reserved for the output; rename it")
    return names
