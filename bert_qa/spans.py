"""Start and end logits to an answer: the best span over all windows of an example.

Pure arithmetic on arrays, many windows at a time. The score of a span is the sum of its start and
end logit; start <= end, both in the context, at most `max_answer_length` tokens; the best one over
all windows wins (Devlin et al., 2018, section 4.2), never two independent argmaxes. Knows no model
and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_qa.logits import Logits
from bert_qa.windows import Window


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


GROUP_WINDOWS = 64
"""Windows of like length that are decoded as one array."""


def best_answers(
    contexts: Sequence[str],
    windows: Sequence[Window],
    logits: Sequence[Logits],
    *,
    max_answer_length: int,
    version_2_with_negative: bool,
    null_score_diff_threshold: float,
) -> list[Answer]:
    """Decode the best answer of each context.

    Args:
        contexts: the texts to answer from; `Window.example` counts in them.
        windows: all windows of all of them; at least one each.
        logits: theirs, in the same order.
        max_answer_length: tokens a span at most.
        version_2_with_negative: whether "no answer" may win, as in SQuAD 2.0.
        null_score_diff_threshold: "no answer" wins when its score (the lowest start plus end logit
            of `[CLS]` over the windows) exceeds that of the best span by more than this.
    """
    best: list[tuple[float, int, int]] = [(-np.inf, 0, 0)] * len(contexts)
    null = np.full(len(contexts), np.inf)
    log_total = np.full((2, len(contexts)), -np.inf)
    order = sorted(range(len(windows)), key=lambda w: (len(windows[w]), w))
    for at in range(0, len(order), GROUP_WINDOWS):
        group = order[at : at + GROUP_WINDOWS]
        starts, ends, inside = _stack([windows[w] for w in group], [logits[w] for w in group])
        spans = _best_spans(
            np.where(inside, starts, -np.inf), np.where(inside, ends, -np.inf), max_answer_length
        )
        inside[:, 0] = True  # `[CLS]` counts in the totals
        totals = [_log_sum_exp(np.where(inside, values, -np.inf)) for values in (starts, ends)]
        for row, w in enumerate(group):
            i = windows[w].example
            score, first, last = (values[row] for values in spans)
            # Of equal spans in two windows the one that comes first in the text.
            if (score, -windows[w].starts[first]) > (best[i][0], -best[i][1]) and np.isfinite(
                score
            ):
                best[i] = (score, int(windows[w].starts[first]), int(windows[w].ends[last]))
            null[i] = min(null[i], float(starts[row, 0]) + float(ends[row, 0]))
            for side in (0, 1):
                log_total[side, i] = np.logaddexp(log_total[side, i], totals[side][row])
    answers = []
    for i, context in enumerate(contexts):
        score, start, end = best[i]
        if score == -np.inf:  # a context without a single token
            answers.append(Answer("", 0.0, 0, 0))
            continue
        if version_2_with_negative and null[i] - score > null_score_diff_threshold:
            score, start, end = float(null[i]), 0, 0
        probability = float(np.exp(score - log_total[:, i].sum()))
        answers.append(Answer(context[start:end], probability, start, end))
    return answers


def n_best_answers(
    contexts: Sequence[str],
    windows: Sequence[Window],
    logits: Sequence[Logits],
    *,
    n_best: int,
    max_answer_length: int,
    version_2_with_negative: bool,
    null_score_diff_threshold: float,
) -> list[list[Answer]]:
    """Decode the best answers of each context, the best first; arguments as in `best_answers`.

    Answers of one context differ in where they begin or end; each has the score of its best span.
    "No answer" is one of them if it may win.

    Args:
        n_best: maximum number of answers per context; fewer where a context has no more. With 1,
            the same as `best_answers`.
    """
    first = best_answers(
        contexts,
        windows,
        logits,
        max_answer_length=max_answer_length,
        version_2_with_negative=version_2_with_negative,
        null_score_diff_threshold=null_score_diff_threshold,
    )
    if n_best == 1:
        return [[answer] for answer in first]
    spans: list[dict[tuple[int, int], float]] = [{} for _ in contexts]
    null = np.full(len(contexts), np.inf)
    log_total = np.full((2, len(contexts)), -np.inf)
    for window, logit in zip(windows, logits, strict=True):
        i = window.example
        starts, ends, inside = _stack([window], [logit])
        for place, score in _distinct(window, starts[0], ends[0], n_best, max_answer_length):
            spans[i][place] = max(score, spans[i].get(place, -np.inf))
        null[i] = min(null[i], starts[0, 0] + ends[0, 0])
        inside[:, 0] = True  # `[CLS]`, as in `best_answers`
        for side, values in enumerate((starts, ends)):
            total = _log_sum_exp(np.where(inside, values, -np.inf))[0]
            log_total[side, i] = np.logaddexp(log_total[side, i], total)
    found = []
    for i, context in enumerate(contexts):
        if version_2_with_negative and spans[i]:
            spans[i][0, 0] = float(null[i])
        probabilities = {
            place: float(np.exp(score - log_total[:, i].sum())) for place, score in spans[i].items()
        }
        others = [
            Answer(context[start:end], probabilities[start, end], start, end)
            for start, end in sorted(spans[i], key=lambda place: (-spans[i][place], place))
            if (start, end) != (first[i].start, first[i].end)
        ]
        found.append([first[i], *others][:n_best])
    return found


def _distinct(
    window: Window,
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    n_best: int,
    max_answer_length: int,
) -> Iterator[tuple[tuple[int, int], float]]:
    """The best `n_best` places of a window, in characters, each with its best span's score."""
    inside = window.starts >= 0
    most = min(max_answer_length, len(window))
    first, width = np.meshgrid(np.arange(len(window)), np.arange(most), indexing="ij", sparse=True)
    last = np.minimum(first + width, len(window) - 1)
    possible = inside[first] & inside[last] & (first + width < len(window))
    scores = np.where(possible, starts[first] + ends[last], -np.inf).ravel()
    seen: set[tuple[int, int]] = set()
    for at in np.argsort(-scores, kind="stable"):
        if len(seen) == n_best or scores[at] == -np.inf:
            return
        row, column = divmod(int(at), most)
        place = int(window.starts[row]), int(window.ends[row + column])
        if place not in seen:
            seen.add(place)
            yield place, float(scores[at])


def _stack(
    windows: Sequence[Window], logits: Sequence[Logits]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Start logits, end logits and whether a token is the context's: shape (windows, length)."""
    shape = (len(windows), max(len(window) for window in windows))
    starts, ends, inside = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    for row, (window, logit) in enumerate(zip(windows, logits, strict=True)):
        starts[row, : len(window)] = logit.start
        ends[row, : len(window)] = logit.end
        inside[row, : len(window)] = window.starts >= 0
    return starts, ends, inside


def _best_spans(
    start: NDArray[np.float64], end: NDArray[np.float64], max_answer_length: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The pair start <= end < start + max_answer_length of the highest sum in each row.

    Slides the end logits under the start logits by one token a time: exact, where a list of the
    `n_best` starts and ends may miss the best pair. Of equal pairs the shortest, then the earliest.

    Args:
        start, end: shape (windows, length), minus infinity outside the context.

    Returns:
        Score, first and last token, one a row; the score is minus infinity in a row without
        context.
    """
    rows = np.arange(len(start))
    best = np.full(len(start), -np.inf)
    first, last = np.zeros_like(rows), np.zeros_like(rows)
    for width in range(min(max_answer_length, start.shape[1])):
        sums = start[:, : start.shape[1] - width] + end[:, width:]
        at = sums.argmax(axis=1)
        score = sums[rows, at]
        better = score > best
        best[better], first[better], last[better] = score[better], at[better], at[better] + width
    return best, first, last


def _log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the sum of exponentials of each row."""
    top = values.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = top[:, 0] + np.log(np.exp(values - top).sum(axis=1))
    return total
