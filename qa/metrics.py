"""Exact match and F1 of answers against gold answers, as SQuAD defines them, in percent.

torchmetrics computes both for one answer and its golds (normalized: lower case, no punctuation, no
articles, single spaces; the best over the golds). This module adds what SQuAD 2.0's official script
does around that: a question without gold answers wants no answer, and golds that normalize to
nothing do not count. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchmetrics.functional.text import squad

from qa.spans import Answer
from qa.squad import Example


@dataclass(frozen=True)
class Score:
    """Exact match and F1, 0 to 100."""

    exact_match: float
    f1: float


def score_text(prediction: str, golds: Sequence[str]) -> Score:
    """Score one answer.

    Args:
        prediction: the answer's text, "" for no answer.
        golds: the gold answers; empty for an unanswerable question.
    """
    # A gold that matches "" exactly is one that normalizes to nothing.
    counting = [gold for gold in golds if _squad(gold, [""]).exact_match == 0]
    return _squad(prediction, counting or [""])


def score_each(examples: Sequence[Example], answers: Sequence[Answer]) -> list[Score]:
    """Score the answers of examples, one by one."""
    return [
        score_text(answer.text, [gold.text for gold in example.answers])
        for example, answer in zip(examples, answers, strict=True)
    ]


def mean(scores: Sequence[Score]) -> Score:
    """The mean of scores: what SQuAD calls the exact match and F1 of a data set."""
    return Score(
        sum(score.exact_match for score in scores) / len(scores),
        sum(score.f1 for score in scores) / len(scores),
    )


def exact_match_and_f1(examples: Sequence[Example], answers: Sequence[Answer]) -> Score:
    """Exact match and F1 of a data set."""
    return mean(score_each(examples, answers))


def _squad(prediction: str, golds: Sequence[str]) -> Score:
    result = squad(
        [{"prediction_text": prediction, "id": "0"}],
        [{"answers": {"text": list(golds), "answer_start": [0] * len(golds)}, "id": "0"}],
    )
    return Score(float(result["exact_match"]), float(result["f1"]))
