"""Question-answering records: `Example`, and the files they come from and go to.

Takes the flat records of the Hugging Face `squad` data sets, checks every answer's offset, draws
subsets, and keeps one schema on disk: JSON Lines with the keys id, question, context and answers
(`text`, `answer_start`). Questions with a fault of their own are counted, and refused or left out
together. Leaves the forms of files to `bert_qa.records`, and knows nothing of tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bert_qa.errors import NAMED, UserError, listed, shown
from bert_qa.files import whole_file
from bert_qa.records import lines_records, read_records

T = TypeVar("T")

AT_INTAKE = "fix it, or leave such questions out: set dataset.on_bad_answer=drop"
"""What to do about faults in what a person brought."""


@dataclass(frozen=True)
class Span:
    """A gold answer: `context[start : start + len(text)] == text`, in characters."""

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """One question on one context. `answers` is empty when nobody knows the answer.

    That is the case of SQuAD 2.0's unanswerable questions, and of questions that a person asks.
    """

    id: str
    question: str
    context: str
    answers: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Fault:
    """A question that cannot be used: its id, or its place where it has none, and why."""

    question: str
    reason: str


def read_questions(path: Path, dropped: list[Fault] | None = None) -> list[Example]:
    """Read questions in any form that `bert_qa.records` knows: SQuAD JSON, Parquet and others.

    Args:
        path: the file.
        dropped: takes the questions with a fault of their own, which are then left out. Without it
            they are an error.

    Raises:
        UserError: the file is of none, or has faults; the message counts them and names the first.
    """
    return _checked(read_records(path), str(path), AT_INTAKE, dropped)


def examples_from_records(
    records: Iterable[Mapping[str, Any]], source: str, dropped: list[Fault] | None = None
) -> list[Example]:
    """Turn flat records (the Hugging Face `squad` schema) into examples, every offset checked.

    Args:
        records: mappings with `id`, `question`, `context`, `answers: {text: [], answer_start: []}`.
        source: what to call the records in an error, such as a file or a data set and its split.
        dropped: as in `read_questions`.

    Raises:
        UserError: as `read_questions`.
    """
    numbered = ((f"number {number}", record) for number, record in enumerate(records, 1))
    return _checked(numbered, source, AT_INTAKE, dropped)


def read_examples(path: Path) -> list[Example]:
    """Read the JSON Lines that `write_examples` wrote.

    Raises:
        UserError: a line is not JSON, or a record is bad.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `dvc repro download_dataset`, which makes it")
    with path.open(encoding="utf-8") as lines:
        return _checked(
            lines_records(lines, path), str(path), "run `dvc repro download_dataset` anew"
        )


def check_answerable(examples: Sequence[Example], source: str) -> None:
    """Refuse unanswerable questions, for a decoding that never gives "no answer".

    Raises:
        UserError: there are some.
    """
    unanswerable = sum(not example.answers for example in examples)
    if unanswerable:
        raise UserError(
            f"{source}: {unanswerable} of {len(examples)} questions have no answer;"
            " set decoding.version_2_with_negative=true in params.yaml"
        )


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSON Lines, one record of the Hugging Face `squad` schema a line."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as out:
        for example in examples:
            record = {
                "id": example.id,
                "question": example.question,
                "context": example.context,
                "answers": {
                    "text": [answer.text for answer in example.answers],
                    "answer_start": [answer.start for answer in example.answers],
                },
            }
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_faults(path: Path, faults: Mapping[str, Sequence[Fault]]) -> None:
    """Write the questions that were left out of each split as JSON Lines."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as out:
        for split, some in faults.items():
            for fault in some:
                # In ASCII: what is wrong may be what UTF-8 cannot hold.
                out.write(json.dumps({"split": split, **asdict(fault)}) + "\n")


def subset(examples: Sequence[T], count: int | None, seed: int) -> list[T]:
    """Draw `count` examples, or their numbers, without replacement, in their order; None: all."""
    if count is None or count >= len(examples):
        return list(examples)
    draw = random.Random(seed)  # noqa: S311  # no secret depends on it
    chosen = sorted(draw.sample(range(len(examples)), count))
    return [examples[i] for i in chosen]


def _checked(
    records: Iterable[tuple[str, Mapping[str, Any]]],
    source: str,
    remedy: str,
    dropped: list[Fault] | None = None,
) -> list[Example]:
    examples: list[Example] = []
    faults: list[Fault] = []
    seen: set[str] = set()
    for place, record in records:
        name = place
        try:
            # A flat record without an id is called by its place.
            id_ = _text({"id": place, **record}, "id")
            name = id_ if id_.isprintable() else shown(id_)
            if id_ in seen:
                raise _UnusableError("the id occurs twice; ids must be unique")
            example = _example(id_, record)
        except _UnusableError as error:
            faults.append(Fault(name, str(error)))
        else:
            seen.add(id_)
            examples.append(example)
    if faults and (dropped is None or not examples):
        raise UserError(_refusal(source, faults, len(examples) + len(faults), remedy))
    if not examples:
        raise UserError(f"{source}: no questions in it")
    if dropped is not None:
        dropped += faults
    return examples


def _refusal(source: str, faults: Sequence[Fault], total: int, remedy: str) -> str:
    first = [f"question {fault.question}: {fault.reason}" for fault in faults[:NAMED]]
    count = f"{len(faults)} of {total} questions cannot be used: " if len(faults) > 1 else ""
    return f"{source}: {count}{listed(first, len(faults))}; {remedy}"


class _UnusableError(Exception):
    """Why a record is no example."""


def _example(id_: str, record: Mapping[str, Any]) -> Example:
    question, context = _text(record, "question"), _text(record, "context")
    if _is_impossible(record):
        return Example(id_, question, context)
    # An empty answer is none: SQuAD's own script leaves it out, annotation tools mean none by it.
    pairs = [(text, start) for text, start in _answers(record) if not _is_blank(text)]
    return Example(id_, question, context, tuple(_span(text, at, context) for text, at in pairs))


def _text(record: Mapping[str, Any], key: str) -> str:
    if key not in record:
        raise _UnusableError(f"it has no {key}")
    text = record[key]
    if key == "id" and isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        raise _UnusableError(f"the {key} is {shown(text)} and not text")
    if not text.strip():
        raise _UnusableError(f"the {key} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _UnusableError(
            f"the {key} has half a character (a lone surrogate) at {error.start}"
        ) from None
    return text


def _is_impossible(record: Mapping[str, Any]) -> bool:
    value = record.get("is_impossible")
    if isinstance(value, str):  # as published guides have it
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
    if value is not None and not isinstance(value, bool):
        raise _UnusableError(f"is_impossible is {shown(value)} and neither true nor false")
    return bool(value)


def _answers(record: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Texts and offsets, of a list of answers as in SQuAD JSON or of two lists as on the Hub."""
    if "answers" not in record:
        raise _UnusableError("it has no answers, not even an empty list of them")
    answers = record["answers"]
    if isinstance(answers, Mapping):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise _UnusableError(
                "its answers are not two lists, text and answer_start, of one length"
            )
        return list(zip(texts, starts, strict=True))
    if not isinstance(answers, list):
        raise _UnusableError(f"answers is {shown(answers)} and not a list")
    for answer in answers:
        if not isinstance(answer, Mapping) or not {"text", "answer_start"} <= answer.keys():
            raise _UnusableError(f"the answer {shown(answer)} has not both text and answer_start")
    return [(answer["text"], answer["answer_start"]) for answer in answers]


def _is_blank(text: Any) -> bool:
    return isinstance(text, str) and not text.strip()


def _span(text: Any, start: Any, context: str) -> Span:
    if not isinstance(text, str):
        raise _UnusableError(f"the text of an answer is {shown(text)} and not text")
    if isinstance(start, float) and start.is_integer():
        start = int(start)  # 22.0, as tables write it, is exact
    if not isinstance(start, int) or isinstance(start, bool):
        raise _UnusableError(
            f"answer {shown(text)} has answer_start {shown(start)}, not an integer"
        )
    found = context[start : start + len(text)] if start >= 0 else ""
    if found != text:
        raise _UnusableError(
            f"answer {shown(text)} is not at answer_start {shown(start)}, where the context has"
            f" {shown(found)}"
        )
    return Span(text, start)
