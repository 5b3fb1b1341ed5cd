"""ONNX Runtime on an execution provider: an exported model's forward pass, here or in processes.

`onnx_forward` runs in this process, for one question; `Sessions` runs several batches at a time,
for a table. Knows nothing of questions and answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from mmap import ACCESS_READ, mmap
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qa.errors import UserError, first_sentence
from qa.logits import Forward
from qa.processor import cores, has_bf16

if TYPE_CHECKING:
    from qa.params import Precision

MODEL_CACHE = Path(".cache/openvino")
"""Where OpenVINO keeps compiled models, so that the second start is fast. Safe to remove."""

MAX_SESSIONS = 8
"""Each holds the model and its buffers: with more cores than this, each gets several."""


class Sessions:
    """Sessions of one model, each in a process of its own on its share of the processors.

    On two cores, two sessions of one core each answer a table 7 to 8% faster than one of two: no
    core waits for the other, and one compiles for a new shape while the other runs. Processes and
    not threads, because where two threads first met a shape at the same moment, FP32 was seen to
    answer batches of it with nonsense from then on, whether they shared a session or had one each
    (onnxruntime-openvino 1.24.1, one start in 15).

    Attributes:
        count: how many batches `forward` takes at a time, each from a thread of its own.
    """

    def __init__(
        self, folder: Path, provider: str, precision: Precision, cache: Path | None = None
    ) -> None:
        """Start the processes and load the model in each; arguments and errors as `onnx_forward`.

        Raises:
            UserError: as `onnx_forward`, or a process ended while it loaded the model.
        """
        self._folder = folder
        self._connections: list[Connection] = []
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        shares = _shares(sorted(os.sched_getaffinity(0)), MAX_SESSIONS)
        self.count = len(shares)
        load = partial(onnx_forward, folder, provider, precision, cache)
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches the whole process group. It is the parent's to answer; a process inherits
        # what is blocked, so that it hears nothing even while it starts.
        resource_tracker.ensure_running()  # which lifts the block below when it is started later
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for share in shares:
                ours, theirs = context.Pipe()
                context.Process(target=_serve, args=(theirs, share, load), daemon=True).start()
                theirs.close()  # so that the end of the process ends the connection
                self._connections.append(ours)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for connection in self._connections:
            if (message := self._receive(connection)) is not None:
                self.close()
                raise UserError(message)
            self._idle.put(connection)

    def forward(
        self, batch: dict[str, NDArray[np.int64]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The forward pass, see `qa.logits.Forward`, on the next session that is free.

        Raises:
            UserError: the process of the session has ended.
        """
        connection = self._idle.get()
        try:
            connection.send(batch)
            start, end = self._receive(connection)
        except OSError:
            raise self._ended() from None
        finally:
            self._idle.put(connection)
        return start, end

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None

    def _ended(self) -> UserError:
        return UserError(
            f"{self._folder}: a process that ran the model has ended; was there memory enough for"
            f" {self.count} of them?"
        )


def _shares(processors: Sequence[int], most: int) -> list[Sequence[int]]:
    """The processors in at most `most` runs of like length, none empty."""
    count = min(len(processors), most)
    at = [len(processors) * n // count for n in range(count + 1)]
    return [processors[start:stop] for start, stop in itertools.pairwise(at)]


def _serve(connection: Connection, processors: Sequence[int], load: Callable[[], Forward]) -> None:
    """A process of `Sessions`: says None or what is wrong, then answers batches with logits."""
    os.sched_setaffinity(0, processors)
    with contextlib.suppress(EOFError, OSError):  # whoever asked is gone, or has what it wanted
        try:
            forward = load()
        except UserError as error:
            connection.send(str(error))
            return
        connection.send(None)
        while True:
            connection.send(forward(connection.recv()))


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

    It takes one batch at a time, see `Sessions`, on all processors that this process may use.

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
    lock: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if provider == "OpenVINOExecutionProvider":
        hints = {"CPU": {"INFERENCE_PRECISION_HINT": inference_precision(file, precision)}}
        options = {"device_type": "CPU", "num_streams": "1", "load_config": json.dumps(hints)}
        if cache is not None and _can_write(cache):
            options["cache_dir"] = str(cache)
            lock = _locked(cache)
    else:
        settings.intra_op_num_threads = cores()
    try:
        with lock:
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


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One process at a time: OpenVINO writes a compiled model in place, for others to read half."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
