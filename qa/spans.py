"""Start and end logits to an answer: the best span over all windows of an example.

Pure arithmetic on arrays. The score of a span is the sum of its start and end logit; start <= end,
both in the context, at most `max_answer_length` tokens; the best one over all windows wins
(Devlin et al., 2018, section 4.2), never two independent argmaxes. Knows no model and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa.features import Window
from qa.logits import Logits


@dataclass(frozen=True)
class Answer:
    """The answer to one example.

    Attributes:
        text: `context[start:end]`, or "" for no answer.
        score: probability of the span among all start and all end positions of all its windows
            (`[CLS]`, which stands for no answer, included), 0 to 1; 0 for a context without tokens.
            For a context that fits in one window this is the score that
            `transformers.pipeline("question-answering")` gives.
        start, end: characters of the context, `end` exclusive; both 0 for no answer.
    """

    text: str
    score: float
    start: int
    end: int


def best_answer(
    context: str,
    windows: Sequence[Window],
    logits: Sequence[Logits],
    *,
    max_answer_length: int,
    version_2_with_negative: bool,
    null_score_diff_threshold: float,
) -> Answer:
    """Decode the best answer of one example.

    Args:
        windows: all windows of the example.
        logits: theirs, in the same order.
        max_answer_length: tokens a span at most.
        version_2_with_negative: whether "no answer" may win, as in SQuAD 2.0.
        null_score_diff_threshold: "no answer" wins when its score (the lowest start plus end logit
            of `[CLS]` over the windows) exceeds that of the best span by more than this.
    """
    best_score, best_window, best_start, best_end = -np.inf, -1, 0, 0
    null_score = np.inf
    for w, (window, logit) in enumerate(zip(windows, logits, strict=True)):
        null_score = min(null_score, float(logit.start[0]) + float(logit.end[0]))
        inside = np.flatnonzero(window.starts >= 0)
        if not len(inside):
            continue
        at, stop = int(inside[0]), int(inside[-1]) + 1
        score, start, end = _best_span(logit.start[at:stop], logit.end[at:stop], max_answer_length)
        if score > best_score:
            best_score, best_window, best_start, best_end = score, w, at + start, at + end
    if best_window < 0:  # a context without a single token
        return Answer("", 0.0, 0, 0)
    log_total = _log_total(windows, logits, "start") + _log_total(windows, logits, "end")
    if version_2_with_negative and null_score - best_score > null_score_diff_threshold:
        return Answer("", float(np.exp(null_score - log_total)), 0, 0)
    first = int(windows[best_window].starts[best_start])
    last = int(windows[best_window].ends[best_end])
    return Answer(context[first:last], float(np.exp(best_score - log_total)), first, last)


def _best_span(
    start: NDArray[np.float32], end: NDArray[np.float32], max_answer_length: int
) -> tuple[float, int, int]:
    """The pair start <= end < start + max_answer_length of the highest sum; the earliest of equals.

    Slides the end logits under the start logits by one token a time: exact, where a list of the
    `n_best` starts and ends may miss the best pair.
    """
    best = (-np.inf, 0, 0)
    for width in range(min(max_answer_length, len(start))):
        sums = start[: len(start) - width] + end[width:]
        at = int(np.argmax(sums))
        if sums[at] > best[0]:
            best = (float(sums[at]), at, at + width)
    return best


def _log_total(windows: Sequence[Window], logits: Sequence[Logits], side: str) -> float:
    """Log of the sum of exponentials over `[CLS]` and the context tokens of all windows."""
    values = np.concatenate(
        [
            np.append(getattr(logit, side)[window.starts >= 0], getattr(logit, side)[0])
            for window, logit in zip(windows, logits, strict=True)
        ]
    ).astype(np.float64)
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))
