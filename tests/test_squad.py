"""Records: both SQuAD versions, the sample data set, and what a bad record says."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qa.errors import UserError
from qa.evaluation import question_word
from qa.squad import (
    Example,
    Span,
    examples_from_records,
    read_examples,
    read_squad_json,
    subset,
    write_examples,
)
from tests.conftest import ROOT


def squad_file(path: Path, *qas: dict[str, Any], context: str = "Ada lived in London.") -> Path:
    data = [{"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path


def question(id_: str = "q1", text: str = "London", start: int = 13) -> dict[str, Any]:
    answers = [{"text": text, "answer_start": start}]
    return {"id": id_, "question": "Where did Ada live?", "answers": answers}


def test_reads_both_versions_of_squad(tmp_path: Path) -> None:
    impossible = {"id": "q2", "question": "Who?", "answers": [], "is_impossible": True}
    examples = read_squad_json(squad_file(tmp_path / "s.json", question(), impossible))
    assert examples == [
        Example("q1", "Where did Ada live?", "Ada lived in London.", (Span("London", 13),)),
        Example("q2", "Who?", "Ada lived in London.", ()),
    ]


def test_an_impossible_question_has_no_answers_whatever_the_file_says(tmp_path: Path) -> None:
    record = {**question(), "is_impossible": True}
    assert read_squad_json(squad_file(tmp_path / "s.json", record))[0].answers == ()


def test_written_examples_come_back(tmp_path: Path) -> None:
    examples = [
        Example("1", "Où ?", "Été à Paris,\nligne 2", (Span("Paris", 6), Span("à Paris", 4))),
        Example("2", "Who?", "Nobody.", ()),
    ]
    write_examples(tmp_path / "x.jsonl", examples)
    assert read_examples(tmp_path / "x.jsonl") == examples


def test_hub_records_become_the_same_examples() -> None:
    record = {
        "id": "q1",
        "title": "t",
        "question": "Where did Ada live?",
        "context": "Ada lived in London.",
        "answers": {"text": ["London"], "answer_start": [13]},
    }
    assert examples_from_records([record], "hub")[0].answers == (Span("London", 13),)


@pytest.mark.parametrize(
    ("qas", "says"),
    [
        ([question(start=12)], r"question q1: answer 'London' is not at answer_start 12"),
        ([question(start=-6)], r"question q1: answer 'London' is not at answer_start -6"),
        ([question(text="")], r"question q1: answer '' is not at"),
        ([question(), question()], r"question q1: the id occurs twice"),
        ([{**question(), "question": "  "}], r"question q1: the question is empty"),
        ([{**question(), "question": "Who \ud83d?"}], r"question q1: the question has half a"),
        ([{"id": "q1", "answers": []}], r"no 'question' in data\[0\]\.paragraphs\[0\]\.qas\[0\]"),
        ([], r"no questions in it"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, qas: list[dict[str, Any]], says: str) -> None:
    path = squad_file(tmp_path / "bad.json", *qas)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: {says}"):
        read_squad_json(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b'{"data": 1}', "not the shape of SQuAD"),
        (b"[]", 'no "data" list'),
        (b'{"data": "\xff"}', "not UTF-8 at byte 10"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_squad_json(path)
    with pytest.raises(UserError, match="no such file"):
        read_squad_json(tmp_path / "absent.json")


def test_subset_is_a_function_of_the_seed() -> None:
    examples = [Example(str(i), "?", "c") for i in range(100)]
    drawn = subset(examples, 10, seed=1)
    assert drawn == subset(examples, 10, seed=1) != subset(examples, 10, seed=2)
    assert [int(e.id) for e in drawn] == sorted(int(e.id) for e in drawn)
    assert subset(examples, None, seed=1) == subset(examples, 1000, seed=1) == examples


def test_the_sample_is_what_its_card_says() -> None:
    splits = {
        split: read_squad_json(ROOT / f"data/sample/{split}.json")
        for split in ("train", "validation")
    }
    contexts = {split: {e.context for e in examples} for split, examples in splits.items()}
    assert not contexts["train"] & contexts["validation"]
    assert len(contexts["train"]) + len(contexts["validation"]) == 112
    assert len(contexts["validation"]) * 4 == 112
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 639,
        "validation": 209,
    }
    words = [len(context.split()) for context in contexts["train"] | contexts["validation"]]
    assert sum(count >= 500 for count in words) == 8
    assert all(60 <= count <= 250 or count >= 500 for count in words)
    everything = [*splits["train"], *splits["validation"]]
    assert len({e.question for e in everything}) == len(everything)
    kinds = Counter(question_word(e.question) for e in everything)
    assert all(kinds[word] >= 25 for word in ("how", "how many", "how long", "what", "when"))
    assert all(kinds[word] >= 25 for word in ("where", "which", "who", "why"))
    assert all(e.answers for e in everything)
