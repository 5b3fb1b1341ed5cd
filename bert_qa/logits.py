"""Windows to logits: batches of like length through a model's forward pass.

The forward pass is a function of arrays, torch's or ONNX Runtime's: teacher, export check,
evaluation and CSV inference all go through here. Knows nothing of what the logits mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_qa.batches import Batch, make_batches
from bert_qa.windows import WindowSet

Forward = Callable[[dict[str, NDArray[np.int64]]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Model inputs of shape (windows, length) to start and end logits of the same shape, float32."""


@dataclass(frozen=True)
class Logits:
    """Start and end logits of one window: float32, one of each per token."""

    start: NDArray[np.float32]
    end: NDArray[np.float32]


def same_function(
    before: tuple[NDArray[np.float32], ...], after: tuple[NDArray[np.float32], ...]
) -> bool:
    """Whether a model that was rewritten gives the logits that it gave, up to rounding in FP32."""
    return all(
        np.allclose(new, old, rtol=1e-3, atol=1e-3 * np.abs(old).max())
        for old, new in zip(before, after, strict=True)
    )


def relative_rms(ours: Sequence[Logits], theirs: Sequence[Logits]) -> float:
    """How far logits are from others of the same windows.

    Returns:
        Root mean square of the differences of all start and end logits, divided by the root
        mean square of their logits.
    """
    one, other = (
        np.concatenate([np.concatenate([each.start, each.end]) for each in logits])
        for logits in (ours, theirs)
    )
    return float(np.sqrt(np.mean((one - other) ** 2) / np.mean(other**2)))


class PendingLogits:
    """Windows on their way through a forward pass, in batches.

    Args:
        executor: runs the batches, as many at a time as it has workers.
    """

    def __init__(self, executor: Executor, forward: Forward, windows: WindowSet) -> None:
        self.windows = windows
        self.batches: list[tuple[Batch, Future[tuple[NDArray[np.float32], ...]]]] = [
            (batch, executor.submit(_run, forward, windows, batch))
            for batch in make_batches(windows.lengths)
        ]

    def result(self, progress: Callable[[int], object] | None = None) -> list[Logits]:
        """The logits of each window, in their order.

        Args:
            progress: called after every batch with its number of windows.
        """
        logits: dict[int, Logits] = {}
        for batch, future in self.batches:
            start, end = future.result()
            for row, i in enumerate(batch.indices):
                length = self.windows.lengths[i]
                logits[i] = Logits(start[row, :length], end[row, :length])
            if progress is not None:
                progress(len(batch.indices))
        return [logits[i] for i in range(len(self.windows))]


def run_windows(
    forward: Forward,
    windows: WindowSet,
    progress: Callable[[int], object] | None = None,
    concurrency: int = 1,
) -> list[Logits]:
    """Compute the logits of each window, in their order.

    Args:
        progress: called after every batch with its number of windows.
        concurrency: how many batches at a time the forward pass is given.
    """
    with ThreadPoolExecutor(concurrency) as executor:
        try:
            return PendingLogits(executor, forward, windows).result(progress)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _run(forward: Forward, windows: WindowSet, batch: Batch) -> tuple[NDArray[np.float32], ...]:
    return forward(windows.pad(batch.indices, batch.length))
