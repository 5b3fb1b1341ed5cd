"""The journal of an unfinished table: what it gives back, and what it does with a damaged file."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bert_qa.journal import FILE, Journal, Progress
from tests.conftest import ROOT

Batch = dict[str, NDArray[np.int64]]


def batch(number: int, rows: int = 2) -> Batch:
    ids = np.arange(rows * 8, dtype=np.int64).reshape(rows, 8) + number
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


class Counting:
    """A forward pass whose logits are a function of the ids, and which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.calls += 1
        start = batch["input_ids"].astype(np.float32) / np.float32(3)
        return start, -start


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output.csv"


def test_a_batch_is_computed_once_and_comes_back_exactly(output: Path) -> None:
    forward = Counting()
    with Journal(output, "run") as journal:
        first = journal.remember(forward)(batch(1))
    assert not journal.outdated
    with Journal(output, "run") as journal:
        again = journal.remember(forward)(batch(1))
        other = journal.remember(forward)(batch(2))
        longer = journal.remember(forward)(batch(1, rows=3))
    assert forward.calls == 3
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
        assert two.dtype == np.float32
    assert not np.array_equal(first[0], other[0])
    assert longer[0].shape == (3, 8)


def test_arrays_of_equal_bytes_and_another_shape_are_another_batch(output: Path) -> None:
    forward = Counting()
    ids = np.arange(12, dtype=np.int64)
    with Journal(output, "run") as journal:
        for shape in ((3, 4), (4, 3), (2, 6)):
            assert journal.remember(forward)({"input_ids": ids.reshape(shape)})[0].shape == shape
    assert forward.calls == 3


def test_logits_are_kept_as_long_as_their_chunk_is_unfinished(output: Path) -> None:
    forward = Counting()
    with Journal(output, "run") as journal:
        for chunk in range(5):
            # The batches of a chunk run after the chunk two before it is written.
            journal.remember(forward)(batch(chunk))
            if chunk:
                output.write_text("x" * chunk)
                journal.advance(Progress(chunk, chunk * 10, chunk, 0))
    with Journal(output, "run") as journal:
        assert journal.progress == Progress(4, 40, 4, 0)
        journal.remember(forward)(batch(4))
        assert forward.calls == 5
        journal.remember(forward)(batch(0))
        assert forward.calls == 6


@pytest.mark.fault(
    "a journal of another run, or damaged: {damage}", sees="the table begins afresh, and says so"
)
@pytest.mark.parametrize("damage", ["identity", "bytes", "empty", "short output", "no table"])
def test_what_is_of_another_run_or_damaged_is_begun_afresh(output: Path, damage: str) -> None:
    output.write_text("much")
    with Journal(output, "run") as journal:
        journal.remember(Counting())(batch(1))
        journal.advance(Progress(1, 2, 4, 0))
    file = output.with_name(FILE)
    if damage == "bytes":
        file.write_bytes(b"\0garbage" * 1000)
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "short output":
        output.write_text("muc")
    elif damage == "no table":
        file.write_bytes(b"SQLite format 3\0" + b"\0" * 84)
    forward = Counting()
    with Journal(output, "other" if damage == "identity" else "run") as journal:
        assert journal.progress == Progress()
        assert journal.outdated is (damage != "empty")
        journal.remember(forward)(batch(2))
    assert forward.calls == 1


@pytest.mark.fault(
    "a large journal, {how} at any point",
    sees="what is damaged is computed again, no answer changes",
)
@pytest.mark.parametrize("how", ["cut off", "zeros", "one byte"])
def test_damage_at_any_point_costs_work_and_changes_no_logits(output: Path, how: str) -> None:
    """The file of a journal that is larger than what SQLite keeps beside it with checksums."""
    batches = [batch(number, rows=200) for number in range(0, 400, 4)]
    with Journal(output, "run") as journal:
        for some in batches:
            journal.remember(Counting())(some)
    file = output.with_name(FILE)
    whole = file.read_bytes()
    draw = random.Random(0)
    for at in draw.sample(range(len(whole)), 12):
        to = {"cut off": len(whole), "zeros": at + 4096, "one byte": at + 1}[how]
        put = (
            b"" if how == "cut off" else bytes(255 * (how == "one byte") ^ b for b in whole[at:to])
        )
        if how == "zeros":
            put = b"\0" * len(put)
        file.write_bytes(whole[:at] + put + whole[to:])
        with Journal(output, "run") as journal:
            for some in batches[::10]:
                for found, right in zip(
                    journal.remember(Counting())(some), Counting()(some), strict=True
                ):
                    np.testing.assert_array_equal(found, right)
            journal.advance(Progress(1, 1, 0, 0))


def test_several_threads_share_it(output: Path) -> None:
    forward = Counting()
    with Journal(output, "run") as journal, ThreadPoolExecutor(8) as threads:
        list(threads.map(journal.remember(forward), [batch(n % 50) for n in range(50)] * 2))
    assert 50 <= forward.calls <= 100
    with Journal(output, "run") as journal:
        before = forward.calls
        for number in range(50):
            journal.remember(forward)(batch(number))
        assert forward.calls == before


KILLED = """
import os, sys
from pathlib import Path
from bert_qa.journal import Journal, Progress
from tests.quick.test_journal import Counting, batch
journal = Journal(Path(sys.argv[1]), "run")
for number in range(20):
    journal.remember(Counting())(batch(number))
os.kill(os.getpid(), 9)
"""


@pytest.mark.fault("kill -9 between two batches", sees="no batch is computed again")
def test_a_kill_loses_no_batch(output: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, output], cwd=ROOT, check=False)
    forward = Counting()
    with Journal(output, "run") as journal:
        for number in range(20):
            journal.remember(forward)(batch(number))
    assert forward.calls == 0


@pytest.mark.fault(
    "an unfinished table's folder that somebody removed",
    sees="`error: ...: unable to open database file`",
)
def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unable to open database") as error:
        Journal(tmp_path / "gone/output.csv", "run")
    assert str(tmp_path / "gone") in str(error.value.filename)
