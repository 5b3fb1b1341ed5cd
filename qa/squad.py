"""Question-answering records: `Example`, and the files they come from and go to.

Reads SQuAD JSON (v1.1 and v2.0) and the flat records of the Hugging Face `squad` data sets, checks
every answer's offset, draws subsets, and keeps one schema on disk: JSON Lines with the keys id,
question, context and answers (`text`, `answer_start`), as the Hugging Face data sets have them.
Knows nothing of tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa.errors import UserError
from qa.outputs import whole_file


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


def read_squad_json(path: Path) -> list[Example]:
    """Read a SQuAD JSON file, v1.1 or v2.0, every offset checked.

    Raises:
        UserError: the file is not SQuAD JSON, or a record is bad; the message names the record.
    """
    return _checked(_squad_json_records(path), str(path))


def examples_from_records(records: Iterable[Mapping[str, Any]], source: str) -> list[Example]:
    """Turn flat records (the Hugging Face `squad` schema) into examples, every offset checked.

    Args:
        records: mappings with `id`, `question`, `context`, `answers: {text: [], answer_start: []}`.
        source: what to call the records in an error, such as a file or a data set and its split.

    Raises:
        UserError: a record is bad; the message names it.
    """
    return _checked(
        ((str(r.get("id", f"number {i}")), r) for i, r in enumerate(records, 1)), source
    )


def read_examples(path: Path) -> list[Example]:
    """Read the JSON Lines that `write_examples` wrote.

    Raises:
        UserError: a line is not JSON, or a record is bad.
    """

    if not path.is_file():
        raise UserError(f"{path}: no such file; run `dvc repro download_dataset`, which makes it")

    def records() -> Iterator[tuple[str, Mapping[str, Any]]]:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}: line {number} is not JSON ({error.msg})") from None
                yield str(record.get("id", f"number {number}")), record

    return _checked(records(), str(path))


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


def subset(examples: Sequence[Example], count: int | None, seed: int) -> list[Example]:
    """Draw `count` examples without replacement, kept in their order; all of them for None."""
    if count is None or count >= len(examples):
        return list(examples)
    draw = random.Random(seed)  # noqa: S311  # no secret depends on it
    chosen = sorted(draw.sample(range(len(examples)), count))
    return [examples[i] for i in chosen]


def _squad_json_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        articles = json.loads(path.read_text(encoding="utf-8-sig"))["data"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set the path of a SQuAD JSON file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} at line {error.lineno}") from None
    except (KeyError, TypeError):
        raise UserError(f'{path}: no "data" list at the top; expected SQuAD JSON') from None
    place = 'under "data"'
    try:
        for a, article in enumerate(articles):
            for p, paragraph in enumerate(article["paragraphs"]):
                place = f"in data[{a}].paragraphs[{p}]"
                context = paragraph["context"]
                for q, qas in enumerate(paragraph["qas"]):
                    place = f"in data[{a}].paragraphs[{p}].qas[{q}]"
                    answers = [] if qas.get("is_impossible") else qas["answers"]
                    yield (
                        str(qas["id"]),
                        {
                            "question": qas["question"],
                            "context": context,
                            "answers": {
                                "text": [answer["text"] for answer in answers],
                                "answer_start": [answer["answer_start"] for answer in answers],
                            },
                        },
                    )
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else "not the shape of SQuAD"
        raise UserError(f"{path}: {missing} {place}; expected SQuAD JSON") from None


def _checked(records: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    for id_, record in records:
        where = f"{source}: question {id_}"
        if id_ in seen:
            raise UserError(f"{where}: the id occurs twice; ids must be unique")
        seen.add(id_)
        try:
            question, context = record["question"], record["context"]
            texts = record["answers"]["text"]
            starts = record["answers"]["answer_start"]
            spans = tuple(Span(str(t), int(s)) for t, s in zip(texts, starts, strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: not a SQuAD record ({error!r})") from None
        for name, text in (("question", question), ("context", context)):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{where}: the {name} is empty")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{where}: the {name} has half a character (a lone surrogate) at"
                    f" {error.start}; mend it or drop the question"
                ) from None
        for span in spans:
            found = context[span.start : span.start + len(span.text)] if span.start >= 0 else ""
            if not span.text or found != span.text:
                raise UserError(
                    f"{where}: answer {span.text!r} is not at answer_start {span.start},"
                    f" where the context has {found!r}; mend the offset or drop the question"
                )
        examples.append(Example(id_, question, context, spans))
    if not examples:
        raise UserError(f"{source}: no questions in it")
    return examples
