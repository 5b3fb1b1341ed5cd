"""Decoding: the exact best span, against a search through all of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bert_qa.logits import Logits
from bert_qa.spans import Answer, best_answers, n_best_answers
from bert_qa.windows import Window

DECODING: dict[str, Any] = {
    "max_answer_length": 4,
    "version_2_with_negative": False,
    "null_score_diff_threshold": 0.0,
}
CONTEXT = "a bb ccc d eeee f gg h iii j"


def window(words: slice) -> Window:
    """`[CLS] question [SEP] some words of CONTEXT [SEP]`, one token a word."""
    offsets, at = [], 0
    for word in CONTEXT.split():
        offsets.append((at, at + len(word)))
        at += len(word) + 1
    some = offsets[words]
    starts = np.array([-1, -1, -1, *(s for s, _ in some), -1], dtype=np.int32)
    ends = np.array([-1, -1, -1, *(e for _, e in some), -1], dtype=np.int32)
    return Window(0, [1] * len(starts), None, starts, ends, (0, int(ends.max())))


def best_answer(windows: list[Window], logits: list[Logits], **decoding: Any) -> Answer:
    return best_answers([CONTEXT], windows, logits, **decoding)[0]


def brute_force(windows: list[Window], logits: list[Logits]) -> tuple[float, int, int]:
    candidates = []
    for w, logit in zip(windows, logits, strict=True):
        for i, j in itertools.product(range(len(w)), repeat=2):
            if w.starts[i] >= 0 and w.starts[j] >= 0 and i <= j < i + 4:
                score = float(logit.start[i]) + float(logit.end[j])
                candidates.append((score, int(w.starts[i]), int(w.ends[j])))
    return max(candidates)


def random_logits(draw: np.random.Generator, length: int) -> Logits:
    start, end = draw.normal(0, 3, (2, length)).astype(np.float32)
    return Logits(start, end)


def test_the_best_span_is_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    windows = [window(slice(0, 6)), window(slice(4, 10))]
    for _ in range(200):
        logits = [random_logits(draw, len(w)) for w in windows]
        answer = best_answer(windows, logits, **DECODING)
        _, start, end = brute_force(windows, logits)
        assert (answer.start, answer.end) == (start, end)
        assert answer.text == CONTEXT[start:end]


def test_start_never_follows_end() -> None:
    w = window(slice(0, 3))
    start = np.array([0, 9, 9, 0, 0, 5, 9], dtype=np.float32)  # best alone: token 5, "ccc"
    end = np.array([0, 9, 9, 5, 0, 0, 9], dtype=np.float32)  # best alone: token 3, "a"
    answer = best_answer([w], [Logits(start, end)], **DECODING)
    assert answer.text in ("a", "ccc")  # one of the two words, never the stretch between


def test_the_score_is_the_span_s_probability() -> None:
    w = window(slice(0, 2))
    start = np.array([0, 50, 50, 1, 2, 50], dtype=np.float32)
    end = np.array([0, 50, 50, 0, 3, 50], dtype=np.float32)
    answer = best_answer([w], [Logits(start, end)], **DECODING)
    total_start = 1 + np.e + np.e**2  # [CLS], "a", "bb"; question and [SEP] do not count
    total_end = 1 + 1 + np.e**3
    assert answer.text == "bb"
    assert answer.score == pytest.approx(np.e**2 / total_start * np.e**3 / total_end, rel=1e-6)


@pytest.mark.parametrize(("threshold", "text"), [(-2.0, ""), (1.0, ""), (2.5, "bb"), (9.0, "bb")])
def test_no_answer_wins_past_the_threshold(threshold: float, text: str) -> None:
    # [CLS] scores 3 + 4 in the first window and 3 + 3 in the second: 6 counts, the lowest.
    # The best span scores 2 + 2: the difference is 2.
    first, second = window(slice(0, 2)), window(slice(1, 3))
    one = Logits(
        np.array([3, 0, 0, 0, 2, 0], dtype=np.float32),
        np.array([4, 0, 0, 0, 2, 0], dtype=np.float32),
    )
    two = Logits(
        np.array([3, 0, 0, 0, 1, 0], dtype=np.float32),
        np.array([3, 0, 0, 0, 1, 0], dtype=np.float32),
    )
    decoding = {
        **DECODING,
        "version_2_with_negative": True,
        "null_score_diff_threshold": threshold,
    }
    answer = best_answer([first, second], [one, two], **decoding)
    assert answer.text == text
    if not text:
        assert (answer.start, answer.end) == (0, 0)
    assert best_answer([first, second], [one, two], **DECODING).text == "bb"


def test_a_context_without_tokens_has_no_answer() -> None:
    empty = Window(0, [1, 1, 1], None, np.full(3, -1, np.int32), np.full(3, -1, np.int32), (0, 0))
    zeros = np.zeros(3, dtype=np.float32)
    answer = best_answers(["\u200b"], [empty], [Logits(zeros, zeros)], **DECODING)[0]
    assert answer == Answer("", 0.0, 0, 0)


def test_many_contexts_are_decoded_as_one_by_one() -> None:
    """More windows than one group holds, of many lengths: the same answers as each alone."""
    draw = np.random.default_rng(1)
    windows, logits, alone = [], [], []
    for example in range(100):
        mine = [window(slice(at, at + int(draw.integers(1, 7)))) for at in range(0, 9, 3)]
        theirs = [random_logits(draw, len(w)) for w in mine]
        alone.append(best_answer(mine, theirs, **DECODING))
        windows += [replace(w, example=example) for w in mine]
        logits += theirs
    together = best_answers([CONTEXT] * 100, windows, logits, **DECODING)
    assert [(a.start, a.end) for a in together] == [(a.start, a.end) for a in alone]
    assert [a.score for a in together] == pytest.approx([a.score for a in alone], rel=1e-12)


def all_places(
    windows: list[Window], logits: list[Logits], most: int
) -> dict[tuple[int, int], float]:
    """Every stretch that some span covers, with its best span's score."""
    found: dict[tuple[int, int], float] = {}
    for w, logit in zip(windows, logits, strict=True):
        for i, j in itertools.product(range(len(w)), repeat=2):
            if w.starts[i] >= 0 and w.starts[j] >= 0 and i <= j < i + most:
                place = int(w.starts[i]), int(w.ends[j])
                score = float(logit.start[i]) + float(logit.end[j])
                found[place] = max(score, found.get(place, -np.inf))
    return found


@pytest.mark.parametrize("n_best", [1, 2, 5, 200])
def test_the_best_answers_are_the_best_of_all(n_best: int) -> None:
    """Of two windows that overlap, in which a word may be two tokens."""
    draw = np.random.default_rng(n_best)
    for _ in range(40):
        windows = [window(slice(0, 6)), window(slice(4, 10))]
        for each in windows:  # two tokens of one word
            each.starts[4], each.ends[4] = each.starts[3], each.ends[3]
        logits = [random_logits(draw, len(w)) for w in windows]
        (found,) = n_best_answers([CONTEXT], windows, logits, n_best=n_best, **DECODING)
        places = all_places(windows, logits, 4)
        wanted = sorted(places, key=lambda place: -places[place])[:n_best]
        assert [(answer.start, answer.end) for answer in found] == wanted
        assert found[0] == best_answer(windows, logits, **DECODING)
        assert all(answer.text == CONTEXT[answer.start : answer.end] for answer in found)
        scores = [answer.score for answer in found]
        ratios = [np.exp(places[place] - places[wanted[0]]) for place in wanted]
        assert scores == pytest.approx([scores[0] * ratio for ratio in ratios])


@pytest.mark.parametrize(("threshold", "first"), [(0.0, ""), (2.5, "bb")])
def test_no_answer_is_one_of_the_best(threshold: float, first: str) -> None:
    w = window(slice(0, 2))
    logits = Logits(
        np.array([3, 0, 0, 0, 2, 0], dtype=np.float32),
        np.array([3, 0, 0, 0, 2, 0], dtype=np.float32),
    )
    decoding = {**DECODING, "version_2_with_negative": True, "null_score_diff_threshold": threshold}
    (found,) = n_best_answers([CONTEXT], [w], [logits], n_best=9, **decoding)
    assert found[0].text == first
    assert sorted(answer.text for answer in found) == ["", "a", "a bb", "bb"]
    scores = {answer.text: answer.score for answer in found}
    assert scores[""] / scores["bb"] == pytest.approx(np.exp(2))


def test_more_tokens_than_a_window_has_may_be_allowed() -> None:
    w = window(slice(0, 3))
    zeros = np.zeros(len(w), dtype=np.float32)
    many = {**DECODING, "max_answer_length": 10**9}
    (found,) = n_best_answers([CONTEXT], [w], [Logits(zeros, zeros)], n_best=100, **many)
    assert len(found) == 6
