"""One data set answered by several models: what the numbers say, side by side.

Turns answers into the metrics and the plot that DVC shows. Knows nothing of how answers were found;
every model's answers come in as plain lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qa.errors import UserError
from qa.metrics import Score, mean
from qa.params import Decoding
from qa.spans import Answer
from qa.squad import Example

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


def check_answerable(examples: Sequence[Example], decoding: Decoding) -> None:
    """Refuse unanswerable questions when the decoding never gives "no answer".

    Raises:
        UserError: there are some, and `version_2_with_negative` is off.
    """
    unanswerable = sum(not example.answers for example in examples)
    if unanswerable and not decoding.version_2_with_negative:
        raise UserError(
            f"data/squad/validation.jsonl: {unanswerable} questions have no answer;"
            " set decoding.version_2_with_negative=true in params.yaml"
        )


def compare(
    examples: Sequence[Example],
    answers: Mapping[str, Sequence[Answer]],
    scores: Mapping[str, Sequence[Score]],
    files: Mapping[str, Path],
) -> dict[str, Any]:
    """The metrics of `fp32` and `int8`, and what lies between them.

    Args:
        answers, scores: by model, `fp32` and `int8`, one an example.
        files: by model, its ONNX file.

    Returns:
        For each model exact match and F1 (percent; on a data set with unanswerable questions also
        of the two kinds apart, as SQuAD 2.0's script names them) and the file's size in MB;
        `difference` (INT8 less FP32, points), `same_answers` (percent) and `size_ratio`.
    """
    result: dict[str, Any] = {"questions": len(examples)}
    for name in answers:
        kinds = {"": list(scores[name])}
        if any(not example.answers for example in examples):
            for prefix, answerable in (("HasAns_", True), ("NoAns_", False)):
                kinds[prefix] = [
                    score
                    for score, example in zip(scores[name], examples, strict=True)
                    if bool(example.answers) == answerable
                ]
        result[name] = {}
        for prefix, some in kinds.items():
            if some:
                score = mean(some)
                result[name][f"{prefix}exact_match"] = round(score.exact_match, 4)
                result[name][f"{prefix}f1"] = round(score.f1, 4)
        result[name]["size_mb"] = round(files[name].stat().st_size / 1e6, 3)
    fp32, int8 = result["fp32"], result["int8"]
    result["difference"] = {key: round(int8[key] - fp32[key], 4) for key in ("exact_match", "f1")}
    result["same_answers"] = round(same_answers(answers["fp32"], answers["int8"]), 4)
    result["size_ratio"] = round(int8["size_mb"] / fp32["size_mb"], 4)
    return result


def summary(metrics: Mapping[str, Any]) -> str:
    """The metrics of `compare` as a small table for a terminal."""
    lines = [f"{metrics['questions']} questions   exact match       F1  size (MB)"]
    for name in ("fp32", "int8"):
        row = metrics[name]
        lines.append(
            f"{name.upper():<16}{row['exact_match']:12.2f}{row['f1']:9.2f}{row['size_mb']:11.2f}"
        )
    lines.append(f"same answers: {metrics['same_answers']:.1f}%")
    return "\n".join(lines)


def same_answers(answers: Sequence[Answer], others: Sequence[Answer]) -> float:
    """Share of answers that are the same text to the letter, in percent."""
    same = [a.text == b.text for a, b in zip(answers, others, strict=True)]
    return 100 * sum(same) / len(same)


def f1_by_question_word(
    examples: Sequence[Example], scores: Mapping[str, Sequence[Score]]
) -> pd.DataFrame:
    """F1 of each model on the questions with each question word.

    Returns:
        Columns `question` (the word and how many questions have it), `model` and `f1` (percent),
        models in the order given.
    """
    words = [question_word(example.question) for example in examples]
    rows = []
    for name, given in scores.items():
        for word in (*QUESTION_WORDS, "other"):
            some = [score for score, w in zip(given, words, strict=True) if w == word]
            if some:
                label = f"{word} ({len(some)})"
                rows.append((label, name.upper(), round(mean(some).f1, 4)))
    return pd.DataFrame(rows, columns=["question", "model", "f1"])


def question_word(question: str) -> str:
    """The first question word in a question, or "other"; whom and whose count as who."""
    text = re.sub(r"\bwho(m|se)\b", "who", question.lower())
    found = re.search(rf"\b({'|'.join(QUESTION_WORDS)})\b", text)
    return found[1] if found else "other"
