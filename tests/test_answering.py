"""A table answered by a model: killed and gone on with, refused, and the same however it is put."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from qa import table
from qa.answering import answer_csv, answer_one
from qa.errors import UserError
from qa.params import Params, read_params
from qa.squad import read_squad_json
from tests.conftest import ROOT

CHUNK_ROWS = 60
"""So that a small table has several chunks."""

CLOSE = 0.02
"""How far two scores of a row may lie apart when other rows share its batch: another shape is
computed in another order, and a score of the tiny model moves by some 1e-6. Rows of INT8 models
move by up to 0.016."""

Rows = list[list[str]]


def rows_of_sample(count: int) -> Rows:
    """Contexts and questions of the sample, no two rows equal."""
    examples = read_squad_json(ROOT / "data/sample/validation.json")
    return [
        [f"{number}. {example.context}", example.question]
        for number, example in enumerate((examples * (count // len(examples) + 1))[:count])
    ]


def write(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])


@dataclass(frozen=True)
class Place:
    """A folder with params.yaml, an input and a model, in which tables are answered."""

    folder: Path
    model: Path

    @property
    def output(self) -> Path:
        return self.folder / "output.csv"

    @property
    def counts(self) -> Path:
        return self.folder / "counts"

    def params(self, **infer: Any) -> Params:
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        content["infer"] |= {"input": "input.csv", "output": "output.csv", **infer}
        content["windows"] = {"max_length": 96, "doc_stride": 16, "max_question_length": 32}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return read_params(self.folder / "params.yaml")

    def answer(self, rows: Rows | None = None, **infer: Any) -> bytes:
        """Answer `rows`, or the input as it is, in this process."""
        if rows is not None:
            header = ["Context", "Question", *(f"Further {n}" for n in range(len(rows[0]) - 2))]
            write(self.folder / "input.csv", rows, header)
        params = self.params(**infer)
        with contextlib.chdir(self.folder):
            answer_csv(self.model, params.windows, params.decoding, params.infer)
        return self.output.read_bytes()

    def start(self, seconds_a_batch: float = 0.02) -> subprocess.Popen[str]:
        """Begin to answer the input as it is, in a process group of its own."""
        return subprocess.Popen(
            [
                sys.executable,
                ROOT / "tests/counted.py",
                self.model,
                self.counts,
                str(CHUNK_ROWS),
                str(seconds_a_batch),
            ],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def begun(self) -> int:
        """How many windows were begun, by all runs."""
        if not self.counts.exists():
            return 0
        return sum(map(int, self.counts.read_text(encoding="ascii").split()))

    def wait_for(self, windows: int, running: subprocess.Popen[str]) -> None:
        """Wait until so many windows were begun."""
        deadline = time.monotonic() + 60
        while self.begun() < windows:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)


def lines(error: str) -> list[str]:
    """What stands on standard error beside the progress bar."""
    return [line for line in re.split(r"[\r\n]+", error) if line and "row/s" not in line]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of_sample(300)


@pytest.fixture
def place(tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(table, "CHUNK_ROWS", CHUNK_ROWS)
    return Place(tmp_path, tiny_onnx)


@dataclass(frozen=True)
class Undisturbed:
    """A table, its answers, and how many windows were begun for them."""

    rows: Rows
    answered: bytes
    windows: int


@pytest.fixture(scope="module")
def undisturbed(
    rows: Rows, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    place = Place(tmp_path_factory.mktemp("undisturbed"), tiny_onnx)
    write(place.folder / "input.csv", rows, ["Context", "Question"])
    place.params()
    running = place.start(0)
    _, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    return Undisturbed(rows, place.output.read_bytes(), place.begun())


@pytest.fixture
def unfinished(place: Place, undisturbed: Undisturbed) -> Iterator[Place]:
    """The table of `undisturbed`, half of it done when its run was killed."""
    write(place.folder / "input.csv", undisturbed.rows, ["Context", "Question"])
    place.params()
    running = place.start()
    place.wait_for(undisturbed.windows // 2, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    place.counts.unlink()
    yield place


def test_a_table_that_is_killed_again_and_again_is_that_of_an_undisturbed_run(
    place: Place, undisturbed: Undisturbed
) -> None:
    draw = random.Random(0)
    write(place.folder / "input.csv", undisturbed.rows, ["Context", "Question"])
    place.params()
    place.output.write_text("the former answers", encoding="utf-8")
    kills = sorted(draw.random() for _ in range(4))
    for kill in kills:
        running = place.start()
        place.wait_for(int(kill * undisturbed.windows), running)
        running.kill()  # its sessions end with it
        running.communicate()
        assert place.output.read_text(encoding="utf-8") == "the former answers"
    running = place.start(0)
    out, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    assert re.search(r"output.csv: going on after row [1-9]\d* of 300\n", out)
    assert place.output.read_bytes() == undisturbed.answered
    assert sorted(file.name for file in place.folder.iterdir()) == [
        ".cache",
        "counts",
        "input.csv",
        "output.csv",
        "params.yaml",
    ]
    # What a kill costs is the batches under way, one or so a session, and one that was done and
    # not yet in the journal.
    most = max(map(int, place.counts.read_text(encoding="ascii").split()))
    assert place.begun() <= undisturbed.windows + len(kills) * 3 * most
