"""Windows to logits: batches of like length through a model's forward pass.

The forward pass is a function of arrays, torch's or ONNX Runtime's: teacher, export check,
evaluation and CSV inference all go through here. Knows nothing of what the logits mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa.features import Window, make_batches, pad

Forward = Callable[[dict[str, NDArray[np.int64]]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Model inputs of shape (windows, length) to start and end logits of the same shape, float32."""

BATCH_TOKENS = 2048
"""Tokens a batch, padding included: a handful of full windows, or some dozens of short ones."""


@dataclass(frozen=True)
class Logits:
    """What the model says of one window: float32, one start and one end logit a token."""

    start: NDArray[np.float32]
    end: NDArray[np.float32]


def run_windows(
    forward: Forward,
    windows: Sequence[Window],
    pad_token_id: int,
    progress: Callable[[int], object] | None = None,
) -> list[Logits]:
    """Compute the logits of each window, in their order, in batches of about `BATCH_TOKENS` tokens.

    Args:
        progress: called after every batch with the number of examples it finished.
    """
    logits: dict[int, Logits] = {}
    left: dict[int, int] = {}
    for window in windows:
        left[window.example] = left.get(window.example, 0) + 1
    for batch in make_batches([len(window) for window in windows], BATCH_TOKENS):
        start, end = forward(pad([windows[i] for i in batch], pad_token_id))
        finished = 0
        for row, i in enumerate(batch):
            logits[i] = Logits(start[row, : len(windows[i])], end[row, : len(windows[i])])
            left[windows[i].example] -= 1
            finished += left[windows[i].example] == 0
        if progress is not None:
            progress(finished)
    return [logits[i] for i in range(len(windows))]
