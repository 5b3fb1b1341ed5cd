"""Batches of windows for a forward pass: which go together, and how long they are padded.

The shapes are chosen for the compilers of execution providers. Training has batches of its own.
Knows nothing of tokens or logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bert_qa.windows import padded_length

BATCH_TOKENS = (1920, 2016, 2048, 2080)
"""Tokens of a full batch, padding included: a handful of long windows, or some dozens of short.

OpenVINO compiles the linear layers anew for each number of tokens, whatever the rows and columns
it is made of, and next to nothing for new rows and columns of a number that it knows
(`benchmark.roofline.compile_shares` measures both). So there are few numbers, those with many
divisors.
"""

LENGTH_MULTIPLE = 16
"""Coarser than padding needs: fewer shapes to compile, and whole tiles of AMX in attention."""

MIN_ROWS = 4
"""With fewer rows the divisors lie far apart, and padding to the next is much."""

SHAPES = sorted(
    {
        tokens // rows: rows
        for tokens in reversed(BATCH_TOKENS)
        for rows in range(MIN_ROWS, tokens)
        if tokens % (LENGTH_MULTIPLE * rows) == 0
    }.items()
)
"""Length and rows of the full batches, shortest first; of a length those with the fewest rows."""


@dataclass(frozen=True)
class Batch:
    """Sequences that are computed together.

    Attributes:
        indices: which, as places in the list that was batched.
        length: tokens to which each is padded.
    """

    indices: list[int]
    length: int


def make_batches(lengths: Sequence[int]) -> Iterator[Batch]:
    """Group sequences of like length into batches, full ones of one of `BATCH_TOKENS` tokens.

    None is padded further than the longest of all needs to be: the model may not read more. Where
    that leaves no shape of `SHAPES`, and for sequences longer than those, a batch has as many as
    `BATCH_TOKENS` allows; the last batch has what is left.

    Yields:
        Longest first, so that a batch too large for memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    most = padded_length(max(lengths, default=0))
    at = 0
    while at < len(order):
        needed = padded_length(lengths[order[at]])
        length, rows = next(
            (shape for shape in SHAPES if needed <= shape[0] <= most),
            (needed, max(1, max(BATCH_TOKENS) // needed)),
        )
        yield Batch(order[at : at + rows], length)
        at += rows
