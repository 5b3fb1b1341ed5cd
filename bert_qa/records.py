"""Files of question-answering data to flat records, as the Hugging Face `squad` data sets have.

Reads SQuAD JSON (v1.1 and v2.0), flat records as JSON, JSON Lines or Parquet, and MRQA's JSON
Lines; text may be compressed by gzip. Goes by what is in a file, not by its name. A file that is
of none of these is refused at its first flaw; `bert_qa.squad` says whether a record is right.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bert_qa.errors import UserError, first_sentence, shown
from bert_qa.formats import other_format

Records = Iterator[tuple[str, Mapping[str, Any]]]
"""Each record with its place in the file: `id`, `question`, `context`, `answers`, as they are."""

EXPECTED = "expected SQuAD JSON, or records with question, context and answers"
CONVERT = "write it as SQuAD JSON, JSON Lines or Parquet"
REQUIRED, OPTIONAL = ("question", "context", "answers"), ("id", "is_impossible")
PARQUET, GZIP = b"PAR1", b"\x1f\x8b"


def read_records(path: Path) -> Records:
    """The records of a file, in their order.

    Raises:
        UserError: it is not there, cannot be read, or is of no form that is known.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; set the path of a file of questions")
    if not path.is_file():
        raise UserError(f"{path}: not a file; set the path of a file of questions")
    with path.open("rb") as file:
        start = file.read(len(PARQUET))
    if start == PARQUET:
        return _parquet_records(path)
    content = path.read_bytes()
    if start.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise UserError(f"{path}: compressed by gzip, and cut off or spoilt") from None
        if content.startswith(PARQUET):
            raise UserError(f"{path}: a Parquet file under gzip; unpack it")
    if (found := other_format(content, CONVERT)) is not None:
        raise UserError(f"{path}: {found}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    return _text_records(text, path)


def lines_records(lines: Iterable[str], path: Path) -> Records:
    """The records of JSON Lines, one a line, or a paragraph with its questions as MRQA has them.

    Args:
        path: what to call them in an error.

    Raises:
        UserError: a line is no JSON object in UTF-8.
    """
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                record = _loads(line)
                if not isinstance(record, dict):
                    raise UserError(
                        f"{path}: line {number} is {shown(record)}, not a record in JSON"
                    )
                if record.keys() == {"header"}:  # MRQA's first line
                    continue
                if isinstance(record.get("qas"), list):
                    yield from _paragraph_records(record, f"on line {number}")
                else:
                    yield f"on line {number}", record
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 below line {number}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {number} is not JSON ({error.msg})") from None
    except ValueError as error:
        raise UserError(f"{path}: line {number} is not JSON that can be read: {error}") from None


def _text_records(text: str, path: Path) -> Records:
    try:
        content = _loads(text)
    except json.JSONDecodeError as error:
        first = text[: error.pos].strip()
        if error.msg != "Extra data" or "\n" in first:
            begins = f"; it begins with {shown(text[:40])}" if text and not first else ""
            raise UserError(
                f"{path}: not JSON: {error.msg} at line {error.lineno}{begins}"
            ) from None
        # One value on its line and more below: JSON Lines.
        return lines_records(io.StringIO(text), path)
    except ValueError as error:
        raise UserError(f"{path}: not JSON that can be read: {error}") from None
    if isinstance(content, dict) and "data" not in content and "context" in content:
        return lines_records([text], path)  # JSON Lines of one line
    # Flat records are in a list, by itself or under "data".
    records = content.get("data") if isinstance(content, dict) else content
    if isinstance(records, list) and any(_is_flat(record) for record in records):
        return _flat_records(records, path)
    return _squad_records(content, path)


def _is_flat(record: Any) -> bool:
    return isinstance(record, dict) and "context" in record and "paragraphs" not in record


def _flat_records(records: list[Any], path: Path) -> Records:
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise UserError(f"{path}: record {number} is {shown(record)}, not an object")
        if isinstance(record.get("qas"), list):
            yield from _paragraph_records(record, f"number {number}")
        else:
            yield f"number {number}", record


def _squad_records(content: Any, path: Path) -> Records:
    def get(parent: Any, key: str, place: str) -> Any:
        if not isinstance(parent, dict):
            raise UserError(f'{path}: no "{key}" {place}, but {shown(parent)}; {EXPECTED}')
        if key not in parent:
            keys = f", but {shown(list(parent))}" if parent else ""
            raise UserError(f'{path}: no "{key}" {place}{keys}; {EXPECTED}')
        return parent[key]

    def items(parent: Any, key: str, place: str) -> list[Any]:
        value = get(parent, key, place)
        if not isinstance(value, list):
            raise UserError(f'{path}: "{key}" {place} is {shown(value)} and not a list; {EXPECTED}')
        return value

    for a, article in enumerate(items(content, "data", "at the top")):
        for p, paragraph in enumerate(items(article, "paragraphs", f"in data[{a}]")):
            place = f"in data[{a}].paragraphs[{p}]"
            context = get(paragraph, "context", place)
            for q, qas in enumerate(items(paragraph, "qas", place)):
                place = f"in data[{a}].paragraphs[{p}].qas[{q}]"
                for key in ("id", "question"):
                    get(qas, key, place)
                yield place, {**qas, "context": context}


def _paragraph_records(paragraph: Mapping[str, Any], place: str) -> Records:
    """The questions on one paragraph; https://github.com/mrqa/MRQA-Shared-Task-2019 has the form.

    There an answer is where it was found in the context, its last character included.
    """
    for number, qas in enumerate(paragraph["qas"]):
        record = dict(qas) if isinstance(qas, dict) else {"question": qas}
        record["context"] = paragraph.get("context")
        if "detected_answers" in record:
            record["answers"] = _detected(record["detected_answers"], record["context"])
        if "qid" in record:
            record.setdefault("id", record["qid"])
        yield f"{place}, qas[{number}]", record


def _detected(answers: Any, context: Any) -> Any:
    """MRQA's answers as SQuAD's, in the context's own letters.

    Their text may differ from it in case and white space. What differs in more, or is of another
    form, stays as it is, so that `bert_qa.squad` says what is wrong.
    """
    try:
        spans = [(a["text"], start, last) for a in answers for start, last in a["char_spans"]]
        return [
            {"text": found if _like(found, text) else text, "answer_start": start}
            for text, start, last in spans
            for found in [context[start : last + 1]]
        ]
    except (TypeError, KeyError, ValueError, AttributeError):
        return answers


def _like(one: str, other: str) -> bool:
    return "".join(one.split()).casefold() == "".join(other.split()).casefold()


def _parquet_records(path: Path) -> Records:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            for key in REQUIRED:
                if key not in columns:
                    raise UserError(
                        f"{path}: a Parquet file without a column {key}; it has {shown(columns)}"
                    )
            wanted = [*REQUIRED, *(key for key in OPTIONAL if key in columns)]
            batches = file.iter_batches(columns=wanted)
            rows = (record for batch in batches for record in batch.to_pylist())
            for number, record in enumerate(rows, 1):
                yield f"in row {number}", record
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{path}: a Parquet file that cannot be read ({first_sentence(error)})"
        ) from None


def _loads(text: str) -> Any:
    """A value of JSON.

    Raises:
        ValueError: it is not JSON, or JSON that Python would not read whole; the message says why.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # an integer of thousands of digits; Python's advice goes on
        raise ValueError(str(error).partition(";")[0]) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return content
