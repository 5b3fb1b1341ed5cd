"""JSON Lines: an object a row, whose further keys are kept as they are."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from bert_qa.errors import UserError, shown
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
)

NAME = "JSON Lines"
SUFFIX = ".jsonl"
JOINED = True


def columns(file: BinaryIO, path: str, reserved: Sequence[str]) -> tuple[str, ...]:
    """The names that no row may have; see `bert_qa.tables.rows.Format`."""
    return tuple(reserved)


def records(
    file: BinaryIO, path: str, columns: Sequence[str], position: int | None = None
) -> Iterator[Record]:
    """The rows; see `bert_qa.tables.rows.Format`. Blank lines are none."""
    ours = {name.lower(): name for name in (*READ, *columns)}
    at = position or 0
    file.seek(at)
    for number, line in enumerate(file, 1):
        begins, at = at, at + len(line)
        content = line.removeprefix(BOM) if begins == 0 else line
        if content.strip():
            yield _record(begins, _object(content, f"{path}: line {number}"), len(line), ours)


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        found = json.loads(line.decode(), object_pairs_hook=_pairs, parse_float=_finite)
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise UserError(f"{place}: not UTF-8 (byte {byte:#04x}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg}); write one object a line") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        said = str(error).partition(";")[0]
        raise UserError(f"{place}: not JSON that can be read: {said}") from None
    if not isinstance(found, dict):
        raise UserError(f"{place}: {shown(found)}, not an object; write one a line")
    return found


class _Twice(dict[str, Any]):
    """An object in which a key stands twice, of which `dict` keeps the last."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(found)


def _finite(text: str) -> float:
    """A number that can be written again."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is out of range")
    return number


def _record(begins: int, found: dict[str, Any], size: int, ours: dict[str, str]) -> Record:
    names = [ours.get(name.strip().lower(), name) for name in found]
    error = "a key stands in it twice" if isinstance(found, _Twice) else None
    for name in (*READ, *ours.values()):
        if names.count(name) > 1:
            error = f"more than one {name}"
        elif name in names and name not in READ:
            error = f"{name!r} is reserved for the output; rename it"
    kept = dict(zip(names, found.values(), strict=True))
    further = {name: value for name, value in kept.items() if name not in ours.values()}
    reserved = [name for name in kept if name in ours.values() and name not in READ]
    lost = f"; left out: {', '.join(reserved)}" if reserved else ""
    return Record(begins, kept.get("Context"), kept.get("Question"), further, size, error, lost)


def encode(
    columns: Sequence[str],
    rows: Sequence[Row],
    answers: Sequence[Answer],
    *,
    keep_errors: bool,
    first: bool,
    escape_formulas: bool,
) -> Encoded:
    """An object a row, further keys last; see `bert_qa.tables.rows.Format`."""
    lines = []
    for row, answer in zip(rows, answers, strict=True):
        score = round(answer.score, SCORE_DECIMALS)
        values = [row.context, row.question, answer.text, score, answer.start, answer.end]
        line: dict[str, Any] = dict(zip((*READ, *WRITTEN), values, strict=True))
        if keep_errors:
            line[ERROR] = row.error
        lines.append(json.dumps(line | row.further, ensure_ascii=False) + "\n")
    # Half a character, which JSON can hold and UTF-8 cannot, is escaped as it was.
    return Encoded("".join(lines).encode(errors="backslashreplace"))


def join(chunks: Iterable[BinaryIO], output: BinaryIO) -> None:
    """Copy chunks, which are a file as they are; see `bert_qa.tables.rows.Format`."""
    for some in chunks:
        shutil.copyfileobj(some, output)
