"""Windows: nothing of a context is lost, offsets are exact, labels and answers agree."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bert_qa import windows as features
from bert_qa.errors import UserError
from bert_qa.squad import Example, Span, read_questions
from bert_qa.windows import WindowSet, label_windows, make_windows
from tests.conftest import ROOT

SIZES: dict[str, Any] = {"max_length": 64, "doc_stride": 16, "max_question_length": 16}
LONG = Example(
    "long",
    "Where was it?",
    " ".join(f"Room {i} holds the Bergström (no. {i}) archive," for i in range(60)),
)


def test_windows_cover_the_context_and_overlap(tokenizer: Any) -> None:
    windows = make_windows([LONG], tokenizer, **SIZES)
    assert len(windows) > 10
    assert max(len(window) for window in windows) == 64
    covered = np.zeros(len(LONG.context), dtype=int)
    for window in windows:
        for start, end in set(zip(window.starts, window.ends, strict=True)):
            if start >= 0:
                covered[start:end] += 1
    text = np.array([not c.isspace() for c in LONG.context])
    assert (covered[text] >= 1).all()
    words = LONG.context.split()
    overlaps = [
        len(set(zip(a.starts, a.ends, strict=True)) & set(zip(b.starts, b.ends, strict=True))) - 1
        for a, b in itertools.pairwise(windows)
    ]
    assert len(words) > 100
    assert all(5 <= overlap <= SIZES["doc_stride"] for overlap in overlaps)  # words, of 16 tokens
    first = list(windows[0].input_ids)
    question = first[: first.index(tokenizer.backend.token_to_id("[SEP]"))]
    assert all(list(window.input_ids[: len(question)]) == question for window in windows)


def test_a_short_example_is_one_window_and_order_is_kept(tokenizer: Any) -> None:
    short = Example("short", "Who?", "Ada.")
    windows = make_windows([short, LONG, short], tokenizer, **SIZES)
    numbers = [window.example for window in windows]
    assert numbers == sorted(numbers)
    assert numbers.count(0) == numbers.count(2) == 1


def test_labels_find_the_answers_of_the_sample(tokenizer: Any) -> None:
    examples = read_questions(ROOT / "data/sample/train.json")
    windows = make_windows(
        examples, tokenizer, max_length=384, doc_stride=128, max_question_length=64
    )
    found = set()
    for window in windows:
        example = examples[window.example]
        span = example.answers[0]
        first, last = window.locate(span)
        if (first, last) == (0, 0):
            continue
        found.add(window.example)
        text = example.context[window.starts[first] : window.ends[last]]
        assert span.text in text
        assert window.starts[first] <= span.start < window.ends[first]
    assert len(found) == len(examples)


def test_an_answer_outside_the_window_is_labelled_cls(tokenizer: Any) -> None:
    end = len(LONG.context) - 8
    span = Span(LONG.context[end:-1], end)
    labels = [w.locate(span) for w in make_windows([LONG], tokenizer, **SIZES)]
    assert labels[0] == (0, 0)
    assert labels[-1] != (0, 0)


def test_words_are_whole(tokenizer: Any) -> None:
    context = "The unbelievableness of Llanfairpwllgwyngyll."
    window = make_windows([Example("", "?", context)], tokenizer, **SIZES)[0]
    words = {context[s:e] for s, e in zip(window.starts, window.ends, strict=True) if s >= 0}
    assert words == {"The", "unbelievableness", "of", "Llanfairpwllgwyngyll", "."}


def test_neighbours_do_not_share_words(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are found in many windows at once: each is as if it were alone."""
    contexts = [
        "London",
        "Paris",
        " ",
        "Oslo",
        "Llanfairpwllgwyngyllgogerychwyrndrobwll" * 2,
        "Rome",
    ]
    examples = [Example(context, "Where?", context) for context in contexts]
    sizes: dict[str, Any] = {"max_length": 32, "doc_stride": 0, "max_question_length": 16}
    together = make_windows(examples, tokenizer, **sizes)
    assert len(together) > len(contexts)
    for i, context in enumerate(contexts):
        ours = [window for window in together if window.example == i]
        alone = make_windows([examples[i]], tokenizer, **sizes)
        for a, b in zip(ours, alone, strict=True):
            np.testing.assert_array_equal(a.starts, b.starts)
            np.testing.assert_array_equal(a.ends, b.ends)
            inside = a.starts >= 0
            assert inside.any() == bool(context.strip())
            for start, end in zip(a.starts[inside], a.ends[inside], strict=True):
                assert 0 <= start < end <= len(context)
    # A word that windows cut in two is whole in neither: each has the part that it reads.
    parts = [w for w in together if w.example == 4]
    assert all(a.ends.max() == b.starts.max() for a, b in itertools.pairwise(parts))
    monkeypatch.setattr(features, "ENCODINGS", 2)
    for a, b in zip(together, make_windows(examples, tokenizer, **sizes), strict=True):
        assert (a.example, a.input_ids) == (b.example, b.input_ids)
        np.testing.assert_array_equal(a.starts, b.starts)
        np.testing.assert_array_equal(a.ends, b.ends)


def test_a_long_question_loses_its_end(tokenizer: Any) -> None:
    long = Example("", "why " * 200 + "?", "Because.")
    same = Example("", "why " * 16, "Because.")
    a, b = make_windows([long, same], tokenizer, **SIZES)
    assert a.input_ids == b.input_ids


@pytest.mark.parametrize("question", ["\ud55c\uad6d\uc5b4 " * 30, "\U0001f600" * 60, "ﬃ" * 60])
def test_a_question_of_letters_that_are_many_tokens(tokenizer: Any, question: str) -> None:
    sizes: dict[str, Any] = {"max_length": 40, "doc_stride": 8, "max_question_length": 16}
    windows = make_windows([Example("", question, LONG.context)], tokenizer, **sizes)
    assert max(len(window) for window in windows) <= 40


def test_a_window_longer_than_the_model_reads_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"max_length: found 600; this model reads at most 512"):
        make_windows([LONG], tokenizer, max_length=600, doc_stride=8, max_question_length=16)


def test_a_window_whose_padding_the_model_cannot_read_is_an_error(tokenizer: Any) -> None:
    reads = replace(tokenizer, model_max_length=70)
    sizes: dict[str, Any] = {"doc_stride": 8, "max_question_length": 16}
    make_windows([LONG], reads, max_length=64, **sizes)
    with pytest.raises(UserError, match=r"found 65; this model reads at most 70 tokens, padded"):
        make_windows([LONG], reads, max_length=65, **sizes)


def test_no_room_for_the_context_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"windows\.max_length 40 leaves 21 tokens"):
        make_windows([LONG], tokenizer, max_length=40, doc_stride=21, max_question_length=16)


def test_models_without_token_types_get_none(tokenizer: Any) -> None:
    without = replace(tokenizer, has_token_types=False)
    windows = make_windows([LONG], without, **SIZES)
    assert list(windows[:1].pad()) == ["input_ids", "attention_mask"]


def test_padding_is_marked(tokenizer: Any) -> None:
    windows = make_windows([LONG, Example("", "Who?", "Ada.")], tokenizer, **SIZES)
    batch = windows.pad([0, -1])
    assert {key: array.dtype for key, array in batch.items()} == dict.fromkeys(batch, np.int64)
    assert batch["input_ids"].shape == (2, 64)
    assert batch["attention_mask"].sum(1).tolist() == [64, len(windows[-1])]
    assert (batch["input_ids"][1, len(windows[-1]) :] == 0).all()
    assert windows[:1].pad(length=80)["attention_mask"].sum(1).tolist() == [64]
    assert windows[:1].pad(length=80)["input_ids"].shape == (1, 80)


def test_windows_are_a_sequence_that_knows_its_padding(tokenizer: Any) -> None:
    windows = make_windows([LONG, Example("", "Who?", "Ada.")], tokenizer, **SIZES)
    assert windows.pad_token_id == tokenizer.pad_token_id
    assert windows.lengths == [len(window) for window in windows]
    assert windows.examples == 2
    assert [*windows[:4]] == [windows[0], windows[1], windows[2], windows[3]]
    assert [*windows[-2:]] == [windows[len(windows) - 2], windows[-1]]
    assert [*windows[::-3]] == [*windows][::-3]
    assert [*windows.take([3, 0, 3])] == [windows[3], windows[0], windows[3]]
    assert [*windows.of_examples({1})] == [windows[-1]]
    assert [*windows.of_examples([1, 0])] == [*windows]
    assert not windows.of_examples([])
    for some in (windows[:4], windows.take([1]), windows.of_examples({1}), windows[:0]):
        assert isinstance(some, WindowSet)
        assert some.pad_token_id == windows.pad_token_id
        assert some.lengths == [len(window) for window in some]
    with pytest.raises(IndexError):
        windows[len(windows)]
    nothing = make_windows([], tokenizer, **SIZES)
    assert (len(nothing), nothing.lengths, nothing.examples) == (0, [], 0)


def test_the_token_that_pads_is_the_tokenizer_s(tokenizer: Any) -> None:
    other = replace(tokenizer, pad_token_id=7)
    windows = make_windows([LONG, Example("", "Who?", "Ada.")], other, **SIZES)
    row = windows.pad([-1, 0])["input_ids"][0]
    assert set(row[len(windows[-1]) :].tolist()) == {7}
    handmade = WindowSet([*windows][-1:], 5)
    assert set(handmade.pad(length=64)["input_ids"][0, len(windows[-1]) :].tolist()) == {5}


def test_windows_are_labelled_with_their_example_s_first_answer(tokenizer: Any) -> None:
    end = len(LONG.context) - 8
    spans = (Span(LONG.context[end:-1], end), Span("Room", 0))
    examples = [LONG, replace(LONG, answers=spans), Example("", "Who?", "Ada.", (Span("Ada", 0),))]
    windows = make_windows(examples, tokenizer, **SIZES)
    labelled = label_windows(windows, examples)
    assert labelled.windows is windows
    assert labelled.starts.dtype == labelled.ends.dtype == np.int32
    places = [*zip(labelled.starts.tolist(), labelled.ends.tolist(), strict=True)]
    for window, place in zip(windows, places, strict=True):
        answers = examples[window.example].answers
        assert place == (window.locate(answers[0]) if answers else (0, 0))
    per_example = {
        i: [p for w, p in zip(windows, places, strict=True) if w.example == i] for i in range(3)
    }
    assert set(per_example[0]) == {(0, 0)}  # no answer
    assert per_example[1][0] == (0, 0)  # the second answer is in it, and does not count
    assert per_example[1][-1] != (0, 0)
    assert per_example[2] != [(0, 0)]
    none = label_windows(windows[:0], examples)
    assert none.starts.shape == none.ends.shape == (0,)
