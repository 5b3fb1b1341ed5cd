"""ONNX Runtime's sessions: what is refused, and several beside each other in processes."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bert_qa.batches import BATCH_TOKENS, make_batches
from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.cpu import cores
from bert_qa.engine import Engine
from bert_qa.errors import UserError
from bert_qa.params import Decoding, Windows
from bert_qa.sessions import Sessions, _count, _locked, _shares, onnx_forward
from bert_qa.squad import read_questions
from bert_qa.windows import WindowSet, make_windows
from tests.conftest import ROOT

WINDOWS = Windows(max_length=96, doc_stride=16, max_question_length=32)
DECODING = Decoding(
    max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
)
EXAMPLES = read_questions(ROOT / "data/sample/validation.json")[:60]
PROVIDER = "OpenVINOExecutionProvider"


@pytest.fixture(scope="module")
def windows(tokenizer: Any) -> WindowSet:
    return make_windows(EXAMPLES, tokenizer, **WINDOWS.model_dump())


@pytest.fixture(scope="module")
def folder(tiny_onnx: Path) -> Path:
    return tiny_onnx


def test_the_processors_are_shared_out() -> None:
    assert _shares([3], 1) == [[3]]
    assert _shares([0, 1], 2) == [[0], [1]]
    assert _shares([0, 2, 4, 6, 8, 9], 3) == [[0, 2], [4, 6], [8, 9]]
    assert _shares(range(5), 2) == [range(2), range(2, 4)]


def test_sessions_are_as_many_as_leave_no_processor_idle() -> None:
    counts = {1: 1, 2: 2, 3: 3, 4: 4, 5: 1, 6: 3, 16: 4}
    assert {processors: _count(processors) for processors in counts} == counts


@pytest.mark.fault(
    "little free memory", sees="fewer processes that run the model, each on as many processors"
)
def test_short_memory_makes_fewer_sessions_of_the_same_share(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    for memory in (0, 10**13):
        monkeypatch.setattr("bert_qa.sessions.available_memory", lambda memory=memory: memory)
        with Sessions(folder, PROVIDER, "fp32") as sessions:
            assert sessions.count == (_count(cores()) if memory else 1)
            shares.append(sessions.processors_each)
    assert shares[0] == shares[1]


@pytest.mark.fault("more `infer.sessions` than processors")
def test_more_sessions_than_processors_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=rf"infer.sessions: found 99; .* use {cores()} processors"):
        Sessions(folder, PROVIDER, "fp32", count=99)


def test_sessions_answer_as_one_does(
    folder: Path, tokenizer: Any, windows: WindowSet, tmp_path: Path
) -> None:
    assert sum(len(window) for window in windows) > 2 * max(BATCH_TOKENS)  # several batches
    forward = onnx_forward(folder, PROVIDER, "fp32")
    alone = Engine(forward, tokenizer, WINDOWS, DECODING).answer(EXAMPLES)
    with Sessions(folder, PROVIDER, "fp32", tmp_path / "cache") as sessions:
        assert sessions.count == _count(cores())
        engine = Engine(sessions.forward, tokenizer, WINDOWS, DECODING, sessions.count)
        together, again = engine.answer(EXAMPLES), engine.answer(EXAMPLES)
        processes = multiprocessing.active_children()
        assert len(processes) == sessions.count
        held = [os.sched_getaffinity(process.pid or 0) for process in processes]
        assert len(set().union(*held)) == sum(map(len, held))  # no processor is in two
    assert [a.text for a in together] == [a.text for a in alone]
    assert together == again
    for process in processes:
        process.join(10)
        assert process.exitcode == 0


@pytest.mark.fault("a folder without a model")
def test_what_a_session_cannot_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.onnx in it; run `dvc repro export`"):
        Sessions(tmp_path, PROVIDER, "fp32")


@pytest.mark.fault("an empty model.onnx")
def test_an_empty_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be loaded \(.*\); export or fetch it again"):
        Sessions(tmp_path, PROVIDER, "fp32")


def test_batches_run_at_the_same_time(tiny_model: Path, tokenizer: Any) -> None:
    """As many as `concurrency` says: each waits here until the other is there."""
    model = torch_forward(load_model(tiny_model, dropout=False)[0])
    both = threading.Barrier(2, timeout=60)

    def forward(batch: dict[str, NDArray[np.int64]]) -> Any:
        both.wait()
        return model(batch)

    windows = make_windows(EXAMPLES[:30], tokenizer, **WINDOWS.model_dump())
    lengths = [len(window) for window in windows]
    assert len(list(make_batches(lengths))) % 2 == 0
    engine = Engine(forward, tokenizer, WINDOWS, DECODING, concurrency=2)
    assert len(engine.answer(EXAMPLES[:30])) == 30


@pytest.mark.fault("{number} to a process that runs the model")
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "set infer.sessions=1"),
        (signal.SIGTERM, "run the same command again"),
        (signal.SIGSEGV, "run the same command again"),
    ],
)
def test_a_session_that_was_killed_is_named(
    folder: Path, windows: WindowSet, number: signal.Signals, says: str
) -> None:
    with Sessions(folder, PROVIDER, "fp32") as sessions:
        batch = windows[:2].pad()
        start, end = sessions.forward(batch)
        assert start.shape == end.shape == batch["input_ids"].shape
        assert start.dtype == np.float32
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, number)
            process.join()
        advice = says if sessions.count > 1 or number != signal.SIGKILL else "free some"
        with pytest.raises(UserError, match=rf"ended by {number.name}; .*{advice}"):
            sessions.forward(batch)


@pytest.mark.fault("a model of another task")
def test_a_model_of_another_task_is_named(folder: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(folder / "model.onnx"))
    model.graph.output[0].name = "logits"
    for node in model.graph.node:
        node.output[:] = ["logits" if name == "start_logits" else name for name in node.output]
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    with pytest.raises(UserError, match="has the outputs logits, end_logits, a question-answering"):
        Sessions(tmp_path, PROVIDER, "fp32")


@pytest.mark.fault("a tokenizer of another model")
def test_a_batch_that_a_model_does_not_read_is_named(folder: Path, windows: WindowSet) -> None:
    batch = windows[:1].pad()
    unknown = {**batch, "input_ids": batch["input_ids"] + 10_000_000}
    with Sessions(folder, "CPUExecutionProvider", "fp32") as sessions:
        with pytest.raises(UserError, match="does not run on 1 windows of"):
            sessions.forward(unknown)
        assert sessions.forward(batch)[0].shape == batch["input_ids"].shape


SCRIPT = """
import multiprocessing, signal, sys
from pathlib import Path
from bert_qa.errors import run
from bert_qa.windows import Window, WindowSet
from bert_qa.sessions import Sessions

def main():
    # Whoever started the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("up", flush=True)
    with Sessions(Path(sys.argv[1]), "OpenVINOExecutionProvider", "fp32") as sessions:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        batch = WindowSet([Window(0, [101, 102, 103], [0] * 3, None, None, (0, 0))], 0).pad()
        while True:
            sessions.forward(batch)

if __name__ == "__main__":
    run(main)
"""


@pytest.fixture
def endless(folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A script that runs sessions until it is ended, in a process group of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.fault("Ctrl-C in a table", sees="`interrupted`")
@pytest.mark.parametrize("while_it_starts", [True, False])
def test_ctrl_c_is_one_line(endless: subprocess.Popen[str], while_it_starts: bool) -> None:
    if while_it_starts:
        time.sleep(0.2)
    else:
        assert endless.stdout is not None
        endless.stdout.readline()
    os.killpg(endless.pid, signal.SIGINT)
    _, error = endless.communicate(timeout=60)
    assert (endless.returncode, error) == (130, "interrupted\n")


BROKEN_OFF = """
import os, signal, sys
from multiprocessing import util
from pathlib import Path
from bert_qa.errors import run
from bert_qa.sessions import Sessions

start = util.spawnv_passfds

def started(executable, arguments, descriptors):
    process = start(executable, arguments, descriptors)
    if "--multiprocessing-fork" in arguments:  # and no resource tracker
        os.kill(os.getpid(), int(sys.argv[2]))
    return process

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    util.spawnv_passfds = started  # before the process is told what to do
    Sessions(Path(sys.argv[1]), "CPUExecutionProvider", "fp32")

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.fault("Ctrl-C or SIGTERM while a model's process starts", sees="one word")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_session_starts_is_one_line(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "script.py"
    script.write_text(BROKEN_OFF)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(int(number))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (done.returncode, done.stderr) == (128 + number, f"{word}\n")


@pytest.mark.fault(
    "kill -9 of a stage whose model runs in processes", sees="the processes end with it"
)
def test_sessions_end_with_the_process_that_started_them(endless: subprocess.Popen[str]) -> None:
    assert endless.stdout is not None
    children = [int(word) for word in endless.stdout.readline().split()]
    assert len(children) == _count(cores())
    endless.kill()
    endless.wait()
    deadline = time.monotonic() + 30
    while any(map(_runs, children)):
        assert time.monotonic() < deadline, "a session outlived the process that started it"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    """Whether it is there and more than an entry in the table that nobody has taken note of."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.fault(
    "a folder .cache/openvino that cannot be written to",
    sees="the model is compiled at every start",
)
def test_a_cache_that_cannot_be_written_is_done_without(
    folder: Path, windows: WindowSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "locked" / "lock").mkdir(parents=True)  # nothing to lock
    for cache, held in (("file", False), ("file/cache", False), ("locked", False), ("a/b", True)):
        with _locked(tmp_path / cache) as found:
            assert found is held
    batch = windows[:1].pad()
    for cache in ("file", "locked"):
        onnx_forward(folder, PROVIDER, "fp32", tmp_path / cache)(batch)
        assert not list(tmp_path.glob("**/*.blob"))
    onnx_forward(folder, PROVIDER, "fp32", tmp_path / "a/b")(batch)
    assert list(tmp_path.glob("a/b/*.blob"))


def test_a_cache_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with _locked(tmp_path), (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.fault("an execution provider that is not there")
def test_an_unknown_provider_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="CUDAExecutionProvider: ONNX Runtime here has"):
        onnx_forward(tmp_path, "CUDAExecutionProvider", "fp32")


@pytest.mark.fault("BF16 on a processor without it")
def test_bf16_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    monkeypatch.setattr("bert_qa.sessions.has_bf16", lambda: False)
    with pytest.raises(UserError, match=r"'bf16', which this processor lacks; set fp32"):
        onnx_forward(tmp_path, "OpenVINOExecutionProvider", "bf16")


@pytest.mark.fault("a model.onnx that is none")
def test_a_damaged_model_is_named(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copyfile(tiny_model / "config.json", tmp_path / "config.json")
    (tmp_path / "model.onnx").write_bytes(b"not onnx")
    with pytest.raises(UserError, match=r"cannot be loaded \(.*\); export or fetch it again"):
        onnx_forward(tmp_path, "CPUExecutionProvider", "fp32")
