"""The engine: questions in, answers out, through one model's forward pass.

Tokenizes, runs and decodes; answers come back in the order of the questions. `onnx_forward` is the
forward pass of CSV inference and evaluation: ONNX Runtime on an execution provider. Knows nothing
of CSV, metrics or training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qa.errors import UserError, first_sentence
from qa.features import Tokenizer, Window, make_windows
from qa.logits import Forward, Logits, PendingLogits
from qa.processor import cores, has_bf16
from qa.spans import Answer, best_answers
from qa.squad import Example

if TYPE_CHECKING:
    from qa.params import Decoding, Precision, Windows

MODEL_CACHE = Path(".cache/openvino")
"""Where OpenVINO keeps compiled models, so that the second start is fast. Safe to remove."""


@dataclass(frozen=True)
class Reading:
    """What the model says of some examples: their windows and the logits of each."""

    examples: Sequence[Example]
    windows: Sequence[Window]
    logits: Sequence[Logits]


@dataclass(frozen=True)
class Engine:
    """A tokenizer and a forward pass, with the parameters of windows and decoding."""

    forward: Forward
    tokenizer: Tokenizer
    windows: Windows
    decoding: Decoding

    def answer(
        self, examples: Sequence[Example], progress: Callable[[int], object] | None = None
    ) -> list[Answer]:
        """Answer examples, in their order; arguments and errors as in `read`."""
        return self.decode(self.read(examples, progress))

    def answer_chunks(
        self,
        chunks: Iterable[Sequence[Example]],
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[list[Answer]]:
        """Answer chunks of examples, one after the other; arguments and errors as in `read`.

        One chunk is tokenized while the one before it runs, and decoded while the one after it
        does.
        """
        return map(self.decode, self._read_chunks(chunks, progress))

    def read(
        self, examples: Sequence[Example], progress: Callable[[int], object] | None = None
    ) -> Reading:
        """Tokenize examples and run the model on them.

        Args:
            progress: called after every batch with the number of examples it finished.

        Raises:
            UserError: the parameters leave no room for a context.
        """
        return next(self._read_chunks([examples], progress))

    def decode(self, reading: Reading) -> list[Answer]:
        """The answers to the examples of a reading, in their order."""
        return best_answers(
            [example.context for example in reading.examples],
            reading.windows,
            reading.logits,
            **self.decoding.model_dump(),
        )

    def _read_chunks(
        self, chunks: Iterable[Sequence[Example]], progress: Callable[[int], object] | None
    ) -> Iterator[Reading]:
        executor = ThreadPoolExecutor(1)  # batches one at a time, see onnx_forward
        running: tuple[Sequence[Example], PendingLogits] | None = None
        try:
            for examples in chunks:
                windows = make_windows(examples, self.tokenizer, **self.windows.model_dump())
                pad_token_id = self.tokenizer.pad_token_id
                pending = PendingLogits(executor, self.forward, windows, pad_token_id)
                if running is not None:
                    yield _finish(*running, progress)
                running = examples, pending
            if running is not None:
                yield _finish(*running, progress)
        finally:
            executor.shutdown(cancel_futures=True)


def _finish(
    examples: Sequence[Example],
    pending: PendingLogits,
    progress: Callable[[int], object] | None,
) -> Reading:
    return Reading(examples, pending.windows, pending.result(progress))


def inference_precision(model: Path, precision: Precision) -> str:
    """OpenVINO's name of the type to compute a model in where it is not INT8: `bf16` or `f32`.

    BF16 is for an INT8 model's soft-max, attention and normalization. An FP32 model stays in FP32
    whatever is asked for: given BF16, the provider answers with nonsense (onnxruntime-openvino
    1.24.1).

    Args:
        model: the ONNX file.
        precision: what is asked for.
    """
    with model.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        quantized = content.find(b"QuantizeLinear") >= 0  # protobuf keeps names as plain text
    return "bf16" if quantized and precision == "bf16" else "f32"


def onnx_forward(
    folder: Path, provider: str, precision: Precision, cache: Path | None = None
) -> Forward:
    """Load an exported folder on an ONNX Runtime execution provider.

    One batch runs at a time, on all processors that this process may use. Two at a time are up to
    a fifth faster on two of them; but where two threads first met a shape at the same moment, FP32
    was seen to answer batches of it with nonsense from then on, whether they shared a session or
    had one each (onnxruntime-openvino 1.24.1, one start in 15).

    Args:
        folder: holds `model.onnx`, as the export stage writes it.
        provider: `OpenVINOExecutionProvider` or `CPUExecutionProvider`.
        precision: of what is not INT8 in an INT8 model, see `inference_precision`.
        cache: folder in which OpenVINO keeps the compiled model, so that the next start is fast;
            where it cannot be written, as in a checkout of somebody else's, nothing is kept.

    Raises:
        UserError: the folder holds no ONNX model, ONNX Runtime cannot run it on that provider, or
            BF16 is asked for where there is none.
    """
    file = folder / "model.onnx"
    if not file.is_file():
        raise UserError(f"{folder}: no model.onnx in it; run `dvc repro export` or `dvc pull`")
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(f"{provider}: ONNX Runtime here has {', '.join(available)} only")
    if precision == "bf16" and provider != "OpenVINOExecutionProvider":
        raise UserError(f"precision: found 'bf16', which {provider} does not know; set fp32")
    if precision == "bf16" and not has_bf16():
        raise UserError("precision: found 'bf16', which this processor does not have; set fp32")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; warnings are about nodes that stay on the CPU
    options: dict[str, str] = {}
    try:
        if provider == "OpenVINOExecutionProvider":
            hints = {"CPU": {"INFERENCE_PRECISION_HINT": inference_precision(file, precision)}}
            options = {"device_type": "CPU", "num_streams": "1", "load_config": json.dumps(hints)}
            if cache is not None and _can_write(cache):
                options["cache_dir"] = str(cache)
        else:
            settings.intra_op_num_threads = cores()
        session = onnxruntime.InferenceSession(file, settings, providers=[(provider, options)])
    except Exception as error:  # ONNX Runtime's errors have no common type
        raise UserError(
            f"{folder}: cannot be loaded ({first_sentence(error)}); run `dvc repro export`"
        ) from None
    # ONNX Runtime falls back to its CPU provider with a message: figures of one would pass for the
    # other's.
    session.disable_fallback()
    if provider not in session.get_providers():
        raise UserError(f"{folder}: {provider} cannot run model.onnx here (see above)")

    def forward(
        batch: dict[str, NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        start, end = session.run(["start_logits", "end_logits"], batch)
        return start, end

    return forward


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
