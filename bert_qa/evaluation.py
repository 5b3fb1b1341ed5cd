"""One data set answered by several models: what the numbers say, side by side.

Turns answers into the metrics that DVC shows: each model's scores, and what the F1 of a data set
cannot tell, which is how far one model's answers are from another's. Plots are `bert_qa.plots`'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import bootstrap
from tabulate import tabulate

from bert_qa.engine import Reading
from bert_qa.errors import UserError
from bert_qa.logits import Forward, Logits, run_windows
from bert_qa.metrics import Score, mean, score_each, score_text
from bert_qa.params import Decoding, Language
from bert_qa.spans import Answer, best_answers
from bert_qa.squad import Example
from bert_qa.windows import WindowSet


def labels(trained: bool) -> dict[str, str]:
    """What to call the models in tables and plots.

    Args:
        trained: whether INT8 was trained after its calibration; without, its name says so.
    """
    return {
        "fp32": "FP32",
        "ptq": "INT8, PTQ",
        "qat": "INT8, QAT" if trained else "INT8, no QAT",
    }


@dataclass(frozen=True)
class Results:
    """What one model made of a data set: one reading, and an answer and a score a question."""

    reading: Reading
    answers: Sequence[Answer]
    scores: Sequence[Score]
    file: Path
    language: Language = "en"


def evaluate(
    forward: Forward,
    examples: Sequence[Example],
    windows: WindowSet,
    *,
    decoding: Decoding,
    file: Path,
    language: Language,
    progress: Callable[[int], object] | None = None,
    concurrency: int = 1,
) -> Results:
    """Answer and score a data set.

    Args:
        windows: of the examples.
        file: the model's file.
        language: of the answers, as scores count them.
        progress, concurrency: as in `run_windows`.
    """
    logits = run_windows(forward, windows, progress, concurrency)
    contexts = [example.context for example in examples]
    answers = best_answers(contexts, windows, logits, **decoding.model_dump())
    scores = score_each(examples, answers, language)
    return Results(Reading(examples, windows, logits), answers, scores, file, language)


def compare(results: Mapping[str, Results]) -> dict[str, Any]:
    """The metrics of each model, and what lies between the first, FP32, and the others.

    Args:
        results: by model, `fp32` first, all of the same data set.

    Returns:
        For each model `exact_match` and `f1` (percent; on a data set with unanswerable questions
        also of the two kinds apart, as SQuAD 2.0's script names them) and the file's size in MB.
        For the others also, against FP32: `size_ratio`; the difference of exact match and F1 in
        points, each with its 95% interval; `same_answers`, percent; `answer_f1`, the F1 of the
        answers when FP32's are taken for gold, percent; `divergence`, the mean over windows, in
        nats.
    """
    fp32 = results["fp32"]
    examples = fp32.reading.examples
    metrics: dict[str, Any] = {"questions": len(examples)}
    for name, result in results.items():
        kinds = {"": list(result.scores)}
        if any(not example.answers for example in examples):
            for prefix, answerable in (("HasAns_", True), ("NoAns_", False)):
                kinds[prefix] = [
                    score
                    for score, example in zip(result.scores, examples, strict=True)
                    if bool(example.answers) == answerable
                ]
        row: dict[str, float] = {}
        for prefix, some in kinds.items():
            if some:
                score = mean(some)
                row[f"{prefix}exact_match"] = score.exact_match
                row[f"{prefix}f1"] = score.f1
        row["size_mb"] = result.file.stat().st_size / 1e6
        if result is not fp32:
            row |= _against(fp32, result)
        metrics[name] = {key: round(value, 4) for key, value in row.items()}
    return metrics


def _against(fp32: Results, other: Results) -> dict[str, float]:
    row = {"size_ratio": other.file.stat().st_size / fp32.file.stat().st_size}
    for key in ("exact_match", "f1"):
        differences = [
            getattr(b, key) - getattr(a, key)
            for a, b in zip(fp32.scores, other.scores, strict=True)
        ]
        low, high = bootstrap_interval(differences)
        row[f"{key}_difference"] = sum(differences) / len(differences)
        row[f"{key}_difference_low"], row[f"{key}_difference_high"] = low, high
    row["same_answers"] = same_answers(fp32.answers, other.answers)
    row["answer_f1"] = mean(
        [
            score_text(b.text, [a.text] if a.text else [], fp32.language)
            for a, b in zip(fp32.answers, other.answers, strict=True)
        ]
    ).f1
    row["divergence"] = divergences(fp32.reading.logits, other.reading.logits).mean()
    return row


def check_f1_drop(metrics: Mapping[str, Any], limit: float) -> None:
    """Fail when INT8 is further below FP32 than it may be.

    Args:
        metrics: what `compare` gives.
        limit: points of F1 that INT8 may lose, `evaluate.max_f1_drop`.

    Raises:
        UserError: it loses more.
    """
    drop = -metrics["qat"]["f1_difference"]
    if drop > limit:
        raise UserError(
            f"INT8 loses {drop:.2f} points of F1, more than evaluate.max_f1_drop ({limit:g});"
            " raise calibrate.examples or the limit"
        )


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the mean of scores or of paired differences, by percentile bootstrap.

    10,000 resamples of the questions, the same at each call (Efron and Tibshirani, 1993, chapter
    13).
    """
    if len(set(values)) == 1:
        return values[0], values[0]
    interval = bootstrap(
        (values,), np.mean, n_resamples=10_000, batch=100, method="percentile", rng=0
    ).confidence_interval
    return float(interval.low), float(interval.high)


def divergences(teacher: Sequence[Logits], student: Sequence[Logits]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of the student's start and end distributions from the teacher's.

    Returns:
        For each window the mean of start and end, in nats, float64.
    """
    each = np.empty(len(teacher))
    for number, (a, b) in enumerate(zip(teacher, student, strict=True)):
        both = 0.0
        for side in ("start", "end"):
            p, q = (log_softmax(getattr(x, side).astype(np.float64)) for x in (a, b))
            both += float(np.sum(np.exp(p) * (p - q)))
        each[number] = both / 2
    return each


def summary(metrics: Mapping[str, Any], trained: bool) -> str:
    """The metrics of `compare` as a small table for a terminal; `trained` as in `labels`."""
    names = labels(trained)
    rows = []
    for name, row in metrics.items():
        if name == "questions":
            continue
        against = ["", "", ""]
        if "f1_difference" in row:
            interval = f"{row['f1_difference_low']:+.2f} to {row['f1_difference_high']:+.2f}"
            same = f"{row['same_answers']:.1f}%"
            against = [f"{row['f1_difference']:+.2f}", interval, same]
        figures = [f"{row[key]:.2f}" for key in ("exact_match", "f1")]
        rows.append([names[name], *figures, *against, f"{row['size_mb']:.2f}"])
    headers = [
        f"{metrics['questions']} questions",
        "exact match",
        "F1",
        "F1 - FP32",
        "95% interval",
        "same answers",
        "MB",
    ]
    align = ("left", *["right"] * (len(headers) - 1))
    table: str = tabulate(rows, headers, disable_numparse=True, colalign=align)
    return table


def same_answers(answers: Sequence[Answer], others: Sequence[Answer]) -> float:
    """Share of answers that are the same text to the letter, in percent."""
    same = [a.text == b.text for a, b in zip(answers, others, strict=True)]
    return 100 * sum(same) / len(same)
