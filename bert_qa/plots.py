"""Tables for the plots of a run: how the models score, on which questions, and how sure they are.

Each is what DVC draws by a template of .dvc/plots/, and `bert_qa.pictures` as a PNG. The numbers
of a run, and intervals of differences, are `bert_qa.evaluation`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bert_qa.evaluation import Results, bootstrap_interval, divergences, labels
from bert_qa.metrics import mean
from bert_qa.squad import Example
from bert_qa.words import find_units

QUESTION_WORDS = (
    "how many",
    "how long",
    "how",
    "what",
    "when",
    "where",
    "which",
    "who",
    "why",
)
"""The longer before the shorter: "how many" is not "how"."""

ANSWER_LENGTHS = (1, 2, 3, 5, 10)
CONTEXT_LENGTHS = (50, 100, 150, 200, 300)
"""In words: the upper ends of the groups; a last one has all that are longer."""

DIVERGENCES = tuple(10 ** (exponent / 4) for exponent in range(-24, 5))
"""In nats, 10^-6 to 10: four a decade."""

CONFIDENCES = 10
"""Groups of equal width that scores of answers are put in."""


def plot_tables(results: Mapping[str, Results], trained: bool) -> dict[str, pd.DataFrame]:
    """All tables of a run, by the names of their files.

    Args:
        results: by model, `fp32` first, all of the same data set.
        trained: as in `labels`.

    Returns:
        - `scores`: `measure`, `model`, `percent`, and `low` and `high`, its 95% interval.
        - `f1_by_question`, `f1_by_answer_length`, `f1_by_context_length`: the group, `questions`
          (how many are in it), `model` and `f1` (percent).
        - `divergence`: `model`, `divergence` (nats) and `windows`, the percentage of windows whose
          start and end lie at most that far from FP32's.
        - `confidence`: `model`, `score` (the mean in a group, percent), `exact_match` (percent) and
          `questions`.
    """
    examples = next(iter(results.values())).reading.examples
    answers = [_answer_length(example) for example in examples]
    contexts = [_length(example.context) for example in examples]
    words = [question_word(example.question) for example in examples]
    return {
        "scores": _scores(results, trained),
        "f1_by_question": _f1_by("question", words, (*QUESTION_WORDS, "other"), results, trained),
        "f1_by_answer_length": _f1_by_length(
            "words of the answer", answers, ANSWER_LENGTHS, results, trained
        ),
        "f1_by_context_length": _f1_by_length(
            "words of the context", contexts, CONTEXT_LENGTHS, results, trained
        ),
        "divergence": _divergence(results, trained),
        "confidence": _confidence(results, trained),
    }


def question_word(question: str) -> str:
    """The first question word in a question, or "other"; whom and whose count as who."""
    text = re.sub(r"\bwho(m|se)\b", "who", question.lower())
    found = re.search(rf"\b({'|'.join(QUESTION_WORDS)})\b", text)
    return found[1] if found else "other"


def _scores(results: Mapping[str, Results], trained: bool) -> pd.DataFrame:
    rows = []
    for measure, name in (("exact match", "exact_match"), ("F1", "f1")):
        for model, result in results.items():
            each = [getattr(score, name) for score in result.scores]
            ends = bootstrap_interval(each)
            figures = (round(value, 4) for value in (sum(each) / len(each), *ends))
            rows.append((measure, labels(trained)[model], *figures))
    return pd.DataFrame(rows, columns=["measure", "model", "percent", "low", "high"])


def _f1_by(
    group: str,
    groups: Sequence[str],
    order: Sequence[str],
    results: Mapping[str, Results],
    trained: bool,
) -> pd.DataFrame:
    """F1 of each model on each group of questions that has any; `groups` has each question's."""
    rows = []
    for model, result in results.items():
        for name in order:
            some = [score for score, g in zip(result.scores, groups, strict=True) if g == name]
            if some:
                rows.append((name, len(some), labels(trained)[model], round(mean(some).f1, 4)))
    return pd.DataFrame(rows, columns=[group, "questions", "model", "f1"])


def _f1_by_length(
    group: str,
    lengths: Sequence[int],
    ends: Sequence[int],
    results: Mapping[str, Results],
    trained: bool,
) -> pd.DataFrame:
    starts = (1, *(end + 1 for end in ends[:-1]))
    ranges = [str(b) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)]
    order = ("none", *ranges, f"over {ends[-1]}")
    groups = [order[int(np.searchsorted(ends, n)) + 1] if n else order[0] for n in lengths]
    return _f1_by(group, groups, order, results, trained)


def _answer_length(example: Example) -> int:
    """Words of the first gold answer; 0 for none."""
    return _length(example.answers[0].text) if example.answers else 0


def _length(text: str) -> int:
    """Words of a text that holds any character, marks that separate them left out; at least one."""
    return max(1, int((~find_units(text).separates).sum()))


def _divergence(results: Mapping[str, Results], trained: bool) -> pd.DataFrame:
    fp32, *others = results.items()
    rows = []
    for model, result in others:
        each = np.sort(divergences(fp32[1].reading.logits, result.reading.logits))
        shares = 100 * np.searchsorted(each, DIVERGENCES, side="right") / len(each)
        rows += [
            (labels(trained)[model], float(f"{limit:.4g}"), round(float(share), 4))
            for limit, share in zip(DIVERGENCES, shares, strict=True)
        ]
    return pd.DataFrame(rows, columns=["model", "divergence", "windows"])


def _confidence(results: Mapping[str, Results], trained: bool) -> pd.DataFrame:
    rows = []
    for model, result in results.items():
        scores = np.array([answer.score for answer in result.answers])
        right = np.array([score.exact_match for score in result.scores])
        groups = np.minimum((scores * CONFIDENCES).astype(int), CONFIDENCES - 1)
        for group in np.unique(groups):
            some = groups == group
            figures = (
                round(float(value), 4) for value in (100 * scores[some].mean(), right[some].mean())
            )
            rows.append((labels(trained)[model], *figures, int(some.sum())))
    return pd.DataFrame(rows, columns=["model", "score", "exact_match", "questions"])
