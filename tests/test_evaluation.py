"""What evaluate reports, on answers whose metrics are worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa.errors import UserError
from qa.evaluation import (
    check_answerable,
    compare,
    f1_by_question_word,
    question_word,
    same_answers,
    summary,
)
from qa.metrics import score_each
from qa.params import Decoding
from qa.spans import Answer
from qa.squad import Example, Span

CONTEXT = "north London"
EXAMPLES = [
    Example("1", "Where was it?", CONTEXT, (Span("London", 6),)),
    Example("2", "Where is it?", CONTEXT, (Span("north London", 0),)),
    Example("3", "Who was it?", CONTEXT, ()),
    Example("4", "Who is it?", CONTEXT, ()),
]
NONE = Answer("", 0.5, 0, 0)
LONDON = Answer("London", 0.5, 6, 12)
# FP32: 100/100, 0/66.7, 100/100, 100/100. INT8: 100/100, 0/66.7, 0/0, 100/100.
ANSWERS = {"fp32": [LONDON, LONDON, NONE, NONE], "int8": [LONDON, LONDON, LONDON, NONE]}
SCORES = {name: score_each(EXAMPLES, given) for name, given in ANSWERS.items()}


def test_metrics_side_by_side(tmp_path: Path) -> None:
    files = {"fp32": tmp_path / "a", "int8": tmp_path / "b"}
    files["fp32"].write_bytes(b"x" * 4_000_000)
    files["int8"].write_bytes(b"x" * 1_000_000)
    metrics = compare(EXAMPLES, ANSWERS, SCORES, files)
    assert metrics == {
        "questions": 4,
        "fp32": {
            "exact_match": 75.0,
            "f1": 91.6667,
            "HasAns_exact_match": 50.0,
            "HasAns_f1": 83.3333,
            "NoAns_exact_match": 100.0,
            "NoAns_f1": 100.0,
            "size_mb": 4.0,
        },
        "int8": {
            "exact_match": 50.0,
            "f1": 66.6667,
            "HasAns_exact_match": 50.0,
            "HasAns_f1": 83.3333,
            "NoAns_exact_match": 50.0,
            "NoAns_f1": 50.0,
            "size_mb": 1.0,
        },
        "difference": {"exact_match": -25.0, "f1": -25.0},
        "same_answers": 75.0,
        "size_ratio": 0.25,
    }
    assert "INT8" in summary(metrics)
    answerable = {name: given[:2] for name, given in ANSWERS.items()}
    short = {name: given[:2] for name, given in SCORES.items()}
    assert "NoAns_f1" not in compare(EXAMPLES[:2], answerable, short, files)["fp32"]


def test_f1_by_question_word() -> None:
    table = f1_by_question_word(EXAMPLES, SCORES)
    assert table.values.tolist() == [
        ["where (2)", "FP32", 83.3333],
        ["who (2)", "FP32", 100.0],
        ["where (2)", "INT8", 83.3333],
        ["who (2)", "INT8", 50.0],
    ]


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("In how many years did whales recover?", "how many"),
        ("How was it built?", "how"),
        ("For whom was it built?", "who"),
        ("Whose idea was it?", "who"),
        ("Name the whole team.", "other"),
        ("At which gate?", "which"),
        ("Why did he leave when it rained?", "why"),
    ],
)
def test_question_words(question: str, word: str) -> None:
    assert question_word(question) == word


def test_same_answers_compares_text() -> None:
    assert same_answers([LONDON, NONE], [Answer("London", 0.1, 0, 6), LONDON]) == 50


def test_unanswerable_questions_need_a_decoding_that_can_say_so() -> None:
    decoding = Decoding(
        max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
    )
    with pytest.raises(UserError, match=r"2 questions have no answer; set decoding\.version_2"):
        check_answerable(EXAMPLES, decoding)
    check_answerable(EXAMPLES[:2], decoding)
    check_answerable(EXAMPLES, decoding.model_copy(update={"version_2_with_negative": True}))
