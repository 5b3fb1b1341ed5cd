"""Hooks that watch a model while windows pass through it: on, the windows, off whatever happens.

Windows go in batches, and hooks see no padding. Knows nothing of the reason for watching.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from bert_qa.batches import make_batches
from bert_qa.checkpoints import can_bf16, runs_in_bf16, torch_forward
from bert_qa.progress import progress
from bert_qa.windows import WindowSet


class Handle(Protocol):
    """What registering a hook returns, torch's or NNCF's."""

    def remove(self) -> None:
        """Take the hook off."""


@contextmanager
def hooked(handles: Iterable[Handle]) -> Iterator[None]:
    """Take hooks off at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Tokens:
    """Windows on their way through a model, and which positions of the batch are no padding."""

    def __init__(self, model: PreTrainedModel, windows: WindowSet) -> None:
        self._model, self._windows = model, windows
        self._bf16 = can_bf16() and runs_in_bf16(model, windows)
        self._real, self._positions = torch.empty(0, dtype=torch.long), 0
        self._total = sum(windows.lengths)

    def rows(self, values: torch.Tensor, at_most: int | None = None) -> torch.Tensor:
        """What a module reads or returns, a row a token, without the padding.

        Args:
            values: of the batch that passes, (windows, length, channels). In another shape, as of
                tables of relative positions, all of it counts.
            at_most: rows of all batches together, evenly spread; about as many. None for all.

        Returns:
            FP32, shape (tokens, channels).
        """
        rows = values.flatten(end_dim=-2)
        every = 1 if at_most is None else max(1, self._total // at_most)
        if len(rows) != self._positions:
            return rows[::every].float()
        return rows.index_select(0, self._real[::every]).float()

    def pass_all(self, description: str) -> None:
        """Run the model on all windows, in batches of like length, behind a bar.

        In BF16 where that is faster: nothing that is watched for needs more digits.
        """
        with (
            progress(description, len(self._windows), "window") as bar,
            torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._bf16),
        ):
            for batch in make_batches(self._windows.lengths):
                arrays = self._windows.pad(batch.indices, batch.length)
                mask = arrays["attention_mask"].ravel()
                self._real = torch.from_numpy(np.flatnonzero(mask)).to(self._model.device)
                self._positions = len(mask)
                torch_forward(self._model)(arrays)
                bar.update(len(batch.indices))


class Change(Protocol):
    """A change of a model that needs to have seen it at work."""

    def watch(self, tokens: Tokens) -> Sequence[Handle]:
        """Put on hooks that note what `apply` needs."""

    def apply(self) -> int:
        """Change the model; how many places were."""


def change(model: PreTrainedModel, windows: WindowSet, changes: Sequence[Change]) -> list[int]:
    """Change a model by what one pass of windows shows; how many places each change found."""
    tokens = Tokens(model, windows)
    with ExitStack() as stack:
        for each in changes:
            stack.enter_context(hooked(each.watch(tokens)))
        tokens.pass_all("ranges of channels")
    return [each.apply() for each in changes]
