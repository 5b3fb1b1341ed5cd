"""The engine: questions in, answers out, through one model's forward pass.

Tokenizes, runs and decodes; answers come back in the order of the questions. `onnx_forward` is the
forward pass of CSV inference and evaluation: Optimum's ONNX Runtime model on an execution provider.
Knows nothing of CSV, metrics or training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qa.errors import UserError, first_sentence
from qa.features import make_windows, pad_token
from qa.logits import Forward, run_windows
from qa.spans import Answer, best_answer
from qa.squad import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from qa.params import Decoding, Windows


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


def onnx_forward(folder: Path, provider: str) -> Forward:
    """Load an exported folder on an ONNX Runtime execution provider.

    Args:
        folder: holds `model.onnx` and `config.json`, as the export stage writes them.
        provider: `OpenVINOExecutionProvider` or `CPUExecutionProvider`.

    Raises:
        UserError: the folder holds no ONNX model, or ONNX Runtime cannot run it on that provider.
    """
    import onnxruntime
    from optimum.onnxruntime import ORTModelForQuestionAnswering

    if not (folder / "model.onnx").is_file():
        raise UserError(f"{folder}: no model.onnx in it; run `dvc repro export` or `dvc pull`")
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(f"{provider}: ONNX Runtime here has {', '.join(available)} only")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about nodes that stay on the CPU
    try:
        model = ORTModelForQuestionAnswering.from_pretrained(
            folder, provider=provider, session_options=options
        )
    except Exception as error:  # ONNX Runtime's errors have no common type
        raise UserError(
            f"{folder}: cannot be loaded ({first_sentence(error)}); run `dvc repro export`"
        ) from None
    # ONNX Runtime falls back to its CPU provider with a message: figures of one would pass for the
    # other's.
    model.session.disable_fallback()
    if provider not in model.session.get_providers():
        raise UserError(f"{folder}: {provider} cannot run model.onnx here (see above)")

    def forward(
        batch: dict[str, NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        output = model(**batch)
        return output.start_logits, output.end_logits

    return forward
