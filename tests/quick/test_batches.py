"""Batches: every sequence once, in shapes that are compiled quickly and that the model can read."""

from __future__ import annotations

import random

import pytest

from bert_qa.batches import BATCH_TOKENS, make_batches
from bert_qa.windows import padded_length


def _lengths(longest: int, count: int = 500) -> list[int]:
    draw = random.Random(0)
    return [longest, *(draw.randint(1, longest) for _ in range(count - 1))]


@pytest.mark.parametrize("longest", [17, 90, 344, 384, 512, 3000])
def test_batches_hold_everything_once(longest: int) -> None:
    lengths = _lengths(longest)
    batches = list(make_batches(lengths))
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(lengths)))
    for batch in batches:
        assert max(lengths[i] for i in batch.indices) <= batch.length <= padded_length(longest)
        assert len(batch.indices) == 1 or len(batch.indices) * batch.length <= max(BATCH_TOKENS)


def test_full_batches_are_of_few_sizes() -> None:
    """All but the last, and those that would be padded past the longest."""
    batches = list(make_batches(_lengths(384)))
    sizes = [len(batch.indices) * batch.length for batch in batches]
    assert set(sizes[:-1]) <= set(BATCH_TOKENS)
    assert len({batch.length for batch in batches}) > 2 * len(BATCH_TOKENS)


def test_padding_stays_small() -> None:
    lengths = _lengths(384)
    padded = sum(len(batch.indices) * batch.length for batch in make_batches(lengths))
    assert sum(lengths) > 0.9 * padded


def test_one_is_padded_no_further_than_it_needs() -> None:
    assert [(b.indices, b.length) for b in make_batches([5000])] == [([0], 5000)]
    assert [(b.indices, b.length) for b in make_batches([345])] == [([0], 352)]
