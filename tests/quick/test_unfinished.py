"""Unfinished work: kept until its run has finished, and found again by the same run alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bert_qa.errors import UserError
from bert_qa.params import Checkpoints
from bert_qa.unfinished import UNFINISHED, unfinished
from tests.conftest import ROOT

RUNS = UNFINISHED / "train"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, by hand, with an input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    (tmp_path / "input").write_text("x")
    return tmp_path


def params(number: int) -> list[Checkpoints]:
    """Parameters of a run, others for each number."""
    return [Checkpoints(other_runs=number)]


def broken_off(number: int, *, others: int = 9, stage: str = "train") -> Path:
    """The folder of a run that has done some work and fails."""
    with (
        pytest.raises(ValueError, match="half way"),
        unfinished(stage, params(number), [Path("input")], others=others) as folder,
    ):
        (folder / "work").write_text(str(number))
        raise ValueError("half way")
    return folder


def aged(folders: Sequence[Path]) -> None:
    """Make folders as if they had been used one after the other, long ago."""
    for n, folder in enumerate(folders):
        os.utime(folder, (1_000_000_000 + n, 1_000_000_000 + n))


def test_an_error_leaves_the_work_and_the_end_removes_it() -> None:
    folder = broken_off(1)
    assert folder.parent == RUNS
    assert (folder / "work").read_text() == "1"
    with unfinished("train", params(1), [Path("input")], others=9) as again:
        assert again == folder
        assert (again / "work").read_text() == "1"
        (again / "deep/er").mkdir(parents=True)
    assert list(RUNS.iterdir()) == []


def test_a_run_is_named_after_all_that_it_computes_from(place: Path) -> None:
    folder = broken_off(1)
    assert broken_off(1) == folder
    others = [broken_off(2), broken_off(1, stage="teach")]
    (place / "input").write_text("y")
    others.append(broken_off(1))
    (place / "input").unlink()
    (place / "input").mkdir()
    (place / "input/file").write_text("z")
    others.append(broken_off(1))
    assert len({folder, *others}) == 5
    (place / "input/empty").mkdir()
    assert broken_off(1) == others[-1]


@pytest.mark.parametrize(("others", "kept"), [(0, []), (1, [4]), (2, [2, 4]), (9, [0, 1, 2, 3, 4])])
def test_the_runs_that_were_used_last_are_kept_beside(others: int, kept: list[int]) -> None:
    folders = [broken_off(number) for number in range(5)]
    apart = broken_off(0, stage="finetune")
    aged([apart, *(folders[i] for i in (3, 1, 0, 2, 4))])
    with unfinished("train", params(7), [Path("input")], others=others) as folder:
        assert {*RUNS.iterdir()} == {folder, *(folders[i] for i in kept)}
        assert all((folders[i] / "work").read_text() == str(i) for i in kept)
    assert {*RUNS.iterdir()} == {folders[i] for i in kept}
    assert (apart / "work").is_file()  # of another stage


def test_a_run_that_is_taken_up_is_the_last_used() -> None:
    folders = [broken_off(number) for number in range(3)]
    aged(folders)
    assert broken_off(0) == folders[0]
    broken_off(7, others=1)
    assert (folders[0] / "work").is_file()
    assert not folders[1].exists()
    assert not folders[2].exists()


def test_files_beside_the_runs_stay(place: Path) -> None:
    (place / RUNS).mkdir(parents=True)
    (place / RUNS / "note").write_text("x")
    broken_off(1, others=0)
    assert (place / RUNS / "note").is_file()


HOLD = """
import sys
from pathlib import Path
from bert_qa.params import Checkpoints
from bert_qa.unfinished import unfinished

with unfinished("train", [Checkpoints(other_runs=1)], [Path("input")], others=9) as folder:
    (folder / "work").write_text("of another process")
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.fault("the same training, started twice at once")
def test_a_run_of_another_process_is_neither_entered_nor_removed(
    holder: subprocess.Popen[str],
) -> None:
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    with (
        pytest.raises(UserError, match="the same run is going on; wait for it, or end it") as error,
        unfinished("train", params(1), [Path("input")], others=0),
    ):
        pytest.fail("entered")
    assert str(error.value).startswith(f"{folder}: ")
    aged([folder])
    idle = broken_off(2)
    broken_off(3, others=0)
    assert not idle.exists()
    assert (folder / "work").read_text() == "of another process"
    holder.communicate("\n", timeout=60)
    assert holder.returncode == 0
    assert not folder.exists()


@pytest.mark.fault("kill -9 of a training", sees="the same run finds what it had done")
def test_a_run_that_was_killed_is_found(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    holder.kill()
    holder.wait()
    with unfinished("train", params(1), [Path("input")], others=0) as found:
        assert found == folder
        assert (found / "work").read_text() == "of another process"
    assert not folder.exists()


NAME = """
from pathlib import Path
from bert_qa.unfinished import unfinished

with unfinished("train", [], [Path("input")], others=0) as folder:
    print(folder.name)
"""


def test_a_run_changes_with_its_code(place: Path) -> None:
    """In a run of DVC with the stage's digest alone; by hand with any file of the package."""
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bert_qa", place / "bert_qa", ignore=hidden)
    digests = place / "digests"
    digests.mkdir()
    for stage in ("train", "teach"):
        (digests / f"{stage}.json").write_text("{}")

    def name(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", NAME],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(place), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def names() -> tuple[str, str]:
        return name(), name(DVC_STAGE="train")

    by_hand, by_dvc = names()
    assert by_hand != by_dvc
    with (place / "bert_qa/spans.py").open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    assert name() != by_hand
    assert name(DVC_STAGE="train") == by_dvc
    by_hand, _ = names()
    (digests / "teach.json").write_text('{"a": 1}')
    assert names() == (by_hand, by_dvc)
    (digests / "train.json").write_text('{"a": 1}')
    assert name() == by_hand
    assert name(DVC_STAGE="train") != by_dvc
