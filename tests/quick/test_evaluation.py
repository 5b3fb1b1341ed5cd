"""What evaluate reports, on answers whose metrics are worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.engine import Engine, Reading
from bert_qa.evaluation import (
    Results,
    bootstrap_interval,
    compare,
    evaluate,
    same_answers,
    summary,
)
from bert_qa.logits import Logits
from bert_qa.metrics import score_each
from bert_qa.params import Decoding, Windows
from bert_qa.plots import plot_tables
from bert_qa.spans import Answer
from bert_qa.squad import Example, Span, read_questions
from bert_qa.windows import WindowSet, make_windows
from tests.conftest import ROOT

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
ANSWERS = {"fp32": [LONDON, LONDON, NONE, NONE], "qat": [LONDON, LONDON, LONDON, NONE]}
# One window of two tokens each: halves, and for INT8 a quarter and three, in the third example.
EVEN = Logits(np.zeros(2, np.float32), np.zeros(2, np.float32))
UNEVEN = Logits(np.log(np.array([0.25, 0.75], np.float32)), np.zeros(2, np.float32))
LOGITS = {"fp32": [EVEN] * 4, "qat": [EVEN, EVEN, UNEVEN, EVEN]}


def results(folder: Path, count: int = 4) -> dict[str, Results]:
    made = {}
    for name, size in (("fp32", 4_000_000), ("qat", 1_000_000)):
        (folder / name).write_bytes(b"x" * size)
        made[name] = Results(
            Reading(EXAMPLES[:count], WindowSet([], 0), LOGITS[name][:count]),
            ANSWERS[name][:count],
            score_each(EXAMPLES[:count], ANSWERS[name][:count]),
            folder / name,
        )
    return made


def test_metrics_side_by_side(tmp_path: Path) -> None:
    metrics = compare(results(tmp_path))
    # The third example alone differs, by 100 points, so that a resample's mean is -25 times the
    # number of times it was drawn: none of 4 draws (0) to 3 of 4 (-75) are 95% of the cases.
    lost = {"_difference": -25.0, "_difference_low": -75.0, "_difference_high": 0.0}
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
        "qat": {
            "exact_match": 50.0,
            "f1": 66.6667,
            "HasAns_exact_match": 50.0,
            "HasAns_f1": 83.3333,
            "NoAns_exact_match": 50.0,
            "NoAns_f1": 50.0,
            "size_mb": 1.0,
            "size_ratio": 0.25,
            **{f"exact_match{key}": value for key, value in lost.items()},
            **{f"f1{key}": value for key, value in lost.items()},
            "same_answers": 75.0,
            "answer_f1": 75.0,
            # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75), one of 4 windows and of two sides.
            "divergence": round((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 8, 4),
        },
    }
    assert "INT8, QAT" in summary(metrics, trained=True)
    assert "NoAns_f1" not in compare(results(tmp_path, count=2))["fp32"]


def test_a_data_set_is_answered_as_a_table_is(
    tmp_path: Path, tiny_model: Path, tokenizer: Any
) -> None:
    """Of windows that lie there already, and with the progress of windows."""
    sizes = Windows(max_length=96, doc_stride=16, max_question_length=32)
    decoding = Decoding(
        max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
    )
    examples = read_questions(ROOT / "data/sample/validation.json")[:12]
    windows = make_windows(examples, tokenizer, **sizes.model_dump())
    assert len(windows) > len(examples)
    forward = torch_forward(load_model(tiny_model, dropout=False)[0])
    finished: list[int] = []
    result = evaluate(
        forward,
        examples,
        windows,
        decoding=decoding,
        file=tmp_path / "model.onnx",
        language="en",
        progress=finished.append,
    )
    assert sum(finished) == len(windows)
    assert result.answers == Engine(forward, tokenizer, sizes, decoding).answer(examples)
    assert result.scores == score_each(examples, result.answers)
    assert result.reading.windows is windows


def test_the_interval_is_the_bootstrap_s() -> None:
    """On many normal differences it is the textbook's mean plus or minus 1.96 standard errors."""
    differences = np.random.default_rng(0).normal(1.0, 10.0, 2000).tolist()
    low, high = bootstrap_interval(differences)
    error = 1.96 * np.std(differences) / math.sqrt(2000)
    assert low == pytest.approx(np.mean(differences) - error, abs=0.03)
    assert high == pytest.approx(np.mean(differences) + error, abs=0.03)
    assert bootstrap_interval(differences) == (low, high)
    assert bootstrap_interval([2.5] * 7) == (2.5, 2.5)
    assert bootstrap_interval([2.5]) == (2.5, 2.5)


def test_a_model_that_was_not_trained_is_not_called_qat(tmp_path: Path) -> None:
    models = results(tmp_path)
    for table in plot_tables(models, trained=False).values():
        assert set(table["model"]) <= {"FP32", "INT8, no QAT"}
    printed = summary(compare(models), trained=False)
    assert "INT8, no QAT " in printed
    assert "INT8, QAT" not in printed


def test_same_answers_compares_text() -> None:
    assert same_answers([LONDON, NONE], [Answer("London", 0.1, 0, 6), LONDON]) == 50
