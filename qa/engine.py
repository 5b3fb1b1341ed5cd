"""The engine: questions in, answers out, through one model's forward pass.

Forms batches by length, runs the forward pass and decodes; answers come back in the order of the
questions. `onnx_forward` is the forward pass of CSV inference and evaluation: Optimum's ONNX
Runtime model on an execution provider. Knows nothing of CSV, metrics or training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qa.errors import UserError
from qa.features import Window, make_batches, make_windows, pad
from qa.spans import Answer, Logits, best_answer
from qa.squad import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from qa.params import Decoding, Windows

Forward = Callable[[dict[str, NDArray[np.int64]]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Model inputs of shape (windows, length) to start and end logits of the same shape, float32."""

BATCH_TOKENS = 2048
"""Tokens a batch, padding included: large enough for full matrix products, small enough that the
activations of one layer stay in the second-level cache of two cores."""


@dataclass(frozen=True)
class Engine:
    """A tokenizer and a forward pass, with the parameters of windows and decoding."""

    forward: Forward
    tokenizer: PreTrainedTokenizerFast
    windows: Windows
    decoding: Decoding

    def answer(
        self, examples: Sequence[Example], progress: Callable[[int], object] | None = None
    ) -> list[Answer]:
        """Answer examples, in their order.

        Args:
            progress: called after every batch with the number of examples it finished.

        Raises:
            UserError: the parameters leave no room for a context.
        """
        windows = make_windows(examples, self.tokenizer, **self.windows.model_dump())
        logits = run_windows(self.forward, windows, pad_token(self.tokenizer), progress)
        answers = []
        at = 0
        for i, example in enumerate(examples):
            stop = at
            while stop < len(windows) and windows[stop].example == i:
                stop += 1
            answers.append(
                best_answer(
                    example.context,
                    windows[at:stop],
                    logits[at:stop],
                    **self.decoding.model_dump(),
                )
            )
            at = stop
        return answers


def run_windows(
    forward: Forward,
    windows: Sequence[Window],
    pad_token_id: int,
    progress: Callable[[int], object] | None = None,
) -> list[Logits]:
    """Logits of each window, in their order, computed in batches of about `BATCH_TOKENS` tokens."""
    logits: list[Logits | None] = [None] * len(windows)
    left: dict[int, int] = {}
    for window in windows:
        left[window.example] = left.get(window.example, 0) + 1
    for batch in make_batches([len(window) for window in windows], BATCH_TOKENS):
        start, end = forward(pad([windows[i] for i in batch], pad_token_id))
        done = 0
        for row, i in enumerate(batch):
            logits[i] = Logits(start[row, : len(windows[i])], end[row, : len(windows[i])])
            left[windows[i].example] -= 1
            done += left[windows[i].example] == 0
        if progress is not None:
            progress(done)
    return [item for item in logits if item is not None]


def pad_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """The tokenizer's padding id, an integer."""
    return int(tokenizer.pad_token_id or 0)


def onnx_forward(folder: Path, provider: str) -> Forward:
    """Load an exported folder on an ONNX Runtime execution provider.

    Args:
        folder: holds `model.onnx` and `config.json`, as the export stage writes them.
        provider: `OpenVINOExecutionProvider` or `CPUExecutionProvider`.

    Raises:
        UserError: the folder holds no ONNX model, or ONNX Runtime has no such provider.
    """
    # Optimum logs at import; ONNX Runtime and OpenVINO are quiet at this level.
    import onnxruntime
    from optimum.onnxruntime import ORTModelForQuestionAnswering

    if not (folder / "model.onnx").is_file():
        raise UserError(f"{folder}: no model.onnx in it; run `dvc repro export` or `dvc pull`")
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(f"{provider}: ONNX Runtime here has {', '.join(available)} only")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads wait on a lock instead of spinning: the answers are the same and a shared machine
    # is not kept busy by an idle session.
    options.intra_op_num_threads = os.cpu_count() or 1
    model = ORTModelForQuestionAnswering.from_pretrained(
        folder, provider=provider, session_options=options
    )

    def forward(
        batch: dict[str, NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        output = model(**batch)
        return output.start_logits, output.end_logits

    return forward
