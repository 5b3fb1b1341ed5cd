"""ONNX Runtime on an execution provider: an exported model's forward pass, here or in processes.

`onnx_forward` runs in this process, for one question; `Sessions` runs several batches at a time,
for a table. Knows nothing of questions and answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from mmap import ACCESS_READ, mmap
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bert_qa.cpu import available_memory, check_sessions, cores, has_bf16, processors
from bert_qa.errors import UserError, deferred_signals, first_sentence
from bert_qa.logits import Forward

if TYPE_CHECKING:
    from bert_qa.params import Precision

MODEL_CACHE = Path(".cache/openvino")
"""Where OpenVINO keeps compiled models, so that the second start is fast. Safe to remove."""

MAX_SESSIONS = 4
"""Each holds the model and its buffers: with more cores than this, each gets several."""

SESSION_BYTES = 400_000_000
"""Memory of a session beside its model: Python, the libraries, buffers, kernels of all shapes."""

MODEL_COPIES = 4
"""Memory of a session's model over the size of its file, at the most: while it is loaded."""


class Sessions:
    """Sessions of one model, each in a process of its own on its share of the processors.

    On two cores, two sessions of one core each answer a table 7 to 8% faster than one of two: no
    core waits for the other, and one compiles for a new shape while the other runs. Processes and
    not threads, because where two threads first met a shape at the same moment, FP32 was seen to
    answer batches of it with nonsense from then on, whether they shared a session or had one each
    (onnxruntime-openvino 1.24.1, one start in 15).

    A process starts by importing what the main script imports at its top: let that be little.

    Attributes:
        count: how many batches `forward` takes at a time, each from a thread of its own.
        processors_each: how many processors each session computes on.
    """

    def __init__(
        self,
        folder: Path,
        provider: str,
        precision: Precision,
        cache: Path | None = None,
        count: int | Literal["auto"] = "auto",
    ) -> None:
        """Start the processes and load the model in each; further arguments as in `onnx_forward`.

        Args:
            count: how many; `auto` for what the processors and the memory allow.

        Raises:
            UserError: as `onnx_forward`, there are fewer processors than `count`, or a process
                ended while it loaded the model.
        """
        self._folder = folder
        self._sessions: list[tuple[BaseProcess, Connection]] = []
        self._idle: SimpleQueue[tuple[BaseProcess, Connection]] = SimpleQueue()
        numbers = processors()
        check_sessions(count)
        if count == "auto":
            # Memory bounds how many run and not what each computes on, of which answers depend.
            most = max(1, available_memory() // memory_of_session(folder))
            shares = _shares(numbers, _count(len(numbers)))[:most]
        else:
            shares = _shares(numbers, count)
        self.count = len(shares)
        self.processors_each = len(shares[0])
        load = partial(onnx_forward, folder, provider, precision, cache)
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches the whole process group. It is the parent's to answer; a process inherits
        # what is blocked, so that it hears nothing even while it starts.
        resource_tracker.ensure_running()  # which lifts the block below when it is started later
        with deferred_signals():  # a process whose start was broken off would print a traceback
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                for share in shares:
                    ours, theirs = context.Pipe()
                    process: BaseProcess = context.Process(
                        target=_serve, args=(theirs, share, load), daemon=True
                    )
                    process.start()
                    theirs.close()  # so that the end of the process ends the connection
                    self._sessions.append((process, ours))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            for process, connection in self._sessions:
                if (error := self._receive(process, connection)) is not None:
                    raise error
                self._idle.put((process, connection))
        except BaseException:
            self.close()
            raise

    def forward(
        self, batch: dict[str, NDArray[np.int64]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The forward pass, see `bert_qa.logits.Forward`, on the next session that is free.

        Raises:
            UserError: the process of the session ended, or the model does not run on the batch.
        """
        process, connection = self._idle.get()
        try:
            with contextlib.suppress(BrokenPipeError):  # which `_receive` explains
                connection.send(batch)
            received = self._receive(process, connection)
        finally:
            self._idle.put((process, connection))
        if isinstance(received, Exception):
            raise received
        start, end = received
        return start, end

    def close(self) -> None:
        """End the processes, after the batches that they are at."""
        for _, connection in self._sessions:
            connection.close()
        for process, _ in self._sessions:
            process.join()

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, process: BaseProcess, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, ConnectionResetError):
            process.join()
        if process.exitcode is None or process.exitcode >= 0:
            raise RuntimeError(
                f"a process that ran the model ended with {process.exitcode}; its message is above"
            )
        name = signal.Signals(-process.exitcode).name
        advice = "run the same command again"
        if process.exitcode == -signal.SIGKILL:
            advice = "if memory is short, free some or run on a larger machine"
            if self.count > 1:
                advice = f"if memory is short for {self.count} of them, set infer.sessions=1"
        raise UserError(
            f"{self._folder}: a process that ran the model was ended by {name}; {advice}"
        )


def _count(processors: int) -> int:
    """How many sessions share the processors: as many as leave the fewest of them idle."""
    most = min(processors, MAX_SESSIONS)
    return max(range(1, most + 1), key=lambda n: (processors // n * n, n))


def processors_of_session(processors: int) -> int:
    """How many processors each session of a machine computes on, `auto` of them."""
    return processors // _count(processors)


def memory_of_session(folder: Path) -> int:
    """Bytes that a session of an exported model may take."""
    model = folder / "model.onnx"
    return SESSION_BYTES + MODEL_COPIES * (model.stat().st_size if model.is_file() else 0)


def _shares(processors: Sequence[int], count: int) -> list[Sequence[int]]:
    """The processors in `count` shares.

    Of one length all, so that a batch is computed in the same way whichever session takes it.
    """
    each = len(processors) // count
    return [processors[at : at + each] for at in range(0, count * each, each)]


def _serve(connection: Connection, processors: Sequence[int], load: Callable[[], Forward]) -> None:
    """A process of `Sessions`: sends None or what is wrong, then that or logits for every batch.

    It ends with the connection, at whatever it is then.
    """
    gc.enable()  # turned off by the first lines of the script, which this process imported
    os.sched_setaffinity(0, processors)
    try:
        forward = load()
    except (UserError, OSError) as error:
        with contextlib.suppress(ConnectionError):
            connection.send(error)
        return
    with contextlib.suppress(EOFError, ConnectionError):
        connection.send(None)
        while True:
            batch = connection.recv()
            try:
                connection.send(forward(batch))
            except UserError as error:
                connection.send(error)


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
        precision: of the operators that stay in floating point, see `inference_precision`.
        cache: folder in which OpenVINO keeps the compiled model, so that the next start is fast;
            where it cannot be written, as in a checkout of somebody else's, nothing is kept.

    Raises:
        UserError: the folder holds no ONNX model of question answering, ONNX Runtime cannot run it
            on that provider, or BF16 is asked for where there is none. From the function that is
            returned: the model does not run on a batch.
    """
    file = folder / "model.onnx"
    if not file.is_file():
        raise UserError(f"{folder}: no model.onnx in it; run `dvc repro export` or `dvc pull`")
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(f"{provider}: ONNX Runtime here has {', '.join(available)} only")
    if precision == "bf16" and not has_bf16():
        raise UserError("precision: found 'bf16', which this processor lacks; set fp32")
    try:
        session = _session(file, provider, precision, cache)
    except Exception as error:  # ONNX Runtime's errors have no common type
        raise UserError(
            f"{folder}: cannot be loaded ({first_sentence(error)}); export or fetch it again"
        ) from None
    # ONNX Runtime falls back to its CPU provider with a message: figures of one would pass for the
    # other's.
    session.disable_fallback()
    if provider not in session.get_providers():
        raise UserError(f"{folder}: {provider} cannot run model.onnx here (see above)")
    outputs = [output.name for output in session.get_outputs()]
    if not {"start_logits", "end_logits"} <= set(outputs):
        raise UserError(
            f"{folder}: model.onnx has the outputs {', '.join(outputs)}, a question-answering model"
            " has start_logits and end_logits; give the folder of one"
        )

    def forward(
        batch: dict[str, NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        try:
            start, end = session.run(["start_logits", "end_logits"], batch)
        except Exception as error:  # as above
            rows, length = batch["input_ids"].shape
            raise UserError(
                f"{folder}: model.onnx does not run on {rows} windows of {length} tokens"
                f" ({first_sentence(error)}); windows.max_length may be more than it reads, or the"
                " tokenizer another model's"
            ) from None
        return start, end

    return forward


def _session(
    file: Path, provider: str, precision: Precision, cache: Path | None
) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; warnings are about nodes that stay on the CPU
    if provider != "OpenVINOExecutionProvider":
        settings.intra_op_num_threads = cores()
        return onnxruntime.InferenceSession(file, settings, providers=[provider])
    hints = {"CPU": {"INFERENCE_PRECISION_HINT": inference_precision(file, precision)}}
    options = {"device_type": "CPU", "num_streams": "1", "load_config": json.dumps(hints)}
    with contextlib.nullcontext(False) if cache is None else _locked(cache) as held:
        if held:
            options["cache_dir"] = str(cache)
        return onnxruntime.InferenceSession(file, settings, providers=[(provider, options)])


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[bool]:
    """Hold the cache for one process: OpenVINO writes a model in place, which others then map.

    Yields:
        Whether it is held; not where it cannot be written or its file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(cache / "lock", os.O_RDONLY | os.O_CREAT, 0o666)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            held = os.access(cache, os.W_OK)
        except OSError:
            held = False
        yield held
