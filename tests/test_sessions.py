"""ONNX Runtime's sessions: what is refused, and several beside each other in processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qa.checkpoints import load_model
from qa.engine import Engine
from qa.errors import UserError
from qa.export import to_onnx, write_folder
from qa.features import Window, make_windows, pad
from qa.logits import BATCH_TOKENS
from qa.params import Decoding, Windows
from qa.processor import cores
from qa.sessions import Sessions, _can_write, _shares, onnx_forward
from qa.squad import read_squad_json
from tests.conftest import ROOT

WINDOWS = Windows(max_length=96, doc_stride=16, max_question_length=32)
DECODING = Decoding(
    max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
)
EXAMPLES = read_squad_json(ROOT / "data/sample/validation.json")[:60]
PROVIDER = "OpenVINOExecutionProvider"


@pytest.fixture(scope="module")
def windows(tokenizer: Any) -> list[Window]:
    return make_windows(EXAMPLES, tokenizer, **WINDOWS.model_dump())


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, windows: list[Window]
) -> Path:
    """The tiny model in ONNX."""
    made = tmp_path_factory.mktemp("onnx")
    model, _ = load_model(tiny_model, dropout=False)
    write_folder(made, to_onnx(model, windows[:2], 0, {}), tiny_model)
    return made


def test_every_processor_has_its_session() -> None:
    assert _shares([3], 8) == [[3]]
    assert _shares([0, 1], 8) == [[0], [1]]
    assert _shares([0, 2, 4, 6, 8], 2) == [[0, 2], [4, 6, 8]]


def test_sessions_answer_as_one_does(
    folder: Path, tokenizer: Any, windows: list[Window], tmp_path: Path
) -> None:
    assert sum(len(window) for window in windows) > 2 * BATCH_TOKENS  # several batches
    forward = onnx_forward(folder, PROVIDER, "fp32")
    alone = Engine(forward, tokenizer, WINDOWS, DECODING).answer(EXAMPLES)
    with Sessions(folder, PROVIDER, "fp32", tmp_path / "cache") as sessions:
        assert sessions.count == min(cores(), 8)
        engine = Engine(sessions.forward, tokenizer, WINDOWS, DECODING, sessions.count)
        together, again = engine.answer(EXAMPLES), engine.answer(EXAMPLES)
        processes = multiprocessing.active_children()
        assert len(processes) == sessions.count
        held = [os.sched_getaffinity(process.pid or 0) for process in processes]
        assert set().union(*held) == os.sched_getaffinity(0)
        assert sum(map(len, held)) == cores()
    assert [a.text for a in together] == [a.text for a in alone]
    assert together == again
    for process in processes:
        process.join(10)
        assert process.exitcode == 0


def test_what_a_session_cannot_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.onnx in it; run `dvc repro export`"):
        Sessions(tmp_path, PROVIDER, "fp32")


def test_a_session_that_ended_is_named(folder: Path, windows: list[Window]) -> None:
    with Sessions(folder, PROVIDER, "fp32") as sessions:
        batch = pad(windows[:2], 0)
        start, end = sessions.forward(batch)
        assert start.shape == end.shape == batch["input_ids"].shape
        assert start.dtype == np.float32
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        with pytest.raises(UserError, match="a process that ran the model has ended"):
            sessions.forward(batch)


SCRIPT = """
import multiprocessing, signal, sys
from pathlib import Path
from qa.errors import run
from qa.features import Window, pad
from qa.sessions import Sessions

def main():
    # Whoever started the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("up", flush=True)
    with Sessions(Path(sys.argv[1]), "OpenVINOExecutionProvider", "fp32") as sessions:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        batch = pad([Window(0, [101, 102, 103], [0, 0, 0], None, None)], 0)
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
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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


def test_sessions_end_with_the_process_that_started_them(endless: subprocess.Popen[str]) -> None:
    assert endless.stdout is not None
    children = [int(word) for word in endless.stdout.readline().split()]
    assert len(children) == min(cores(), 8)
    endless.kill()
    endless.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}/cmdline").is_file() for child in children):
        assert time.monotonic() < deadline, "a session outlived the process that started it"
        time.sleep(0.05)


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not _can_write(tmp_path / "file" / "cache")
    assert not _can_write(tmp_path / "file")
    assert _can_write(tmp_path / "new" / "cache")


def test_an_unknown_provider_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="CUDAExecutionProvider: ONNX Runtime here has"):
        onnx_forward(tmp_path, "CUDAExecutionProvider", "fp32")


def test_bf16_is_refused_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"'bf16', which CPUExecutionProvider does not .* fp32"):
        onnx_forward(tmp_path, "CPUExecutionProvider", "bf16")
    monkeypatch.setattr("qa.sessions.has_bf16", lambda: False)
    with pytest.raises(UserError, match=r"'bf16', which this processor does not have; set fp32"):
        onnx_forward(tmp_path, "OpenVINOExecutionProvider", "bf16")


def test_a_damaged_model_is_named(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copyfile(tiny_model / "config.json", tmp_path / "config.json")
    (tmp_path / "model.onnx").write_bytes(b"not onnx")
    with pytest.raises(UserError, match=r"cannot be loaded \(.*\); run `dvc repro export`"):
        onnx_forward(tmp_path, "CPUExecutionProvider", "fp32")
