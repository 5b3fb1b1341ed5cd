"""The teacher's logits: those of the model, computed once, whatever breaks off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bert_qa import teaching
from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.errors import UserError
from bert_qa.logits import Forward, Logits, run_windows
from bert_qa.squad import read_questions
from bert_qa.teaching import read_teacher, write_teacher
from bert_qa.windows import Tokenizer, WindowSet, make_windows
from tests.conftest import ROOT

PART = 8


class Counted:
    """A forward pass that counts its windows, and breaks off after some of them."""

    def __init__(self, forward: Forward, breaks_off: int | None = None) -> None:
        self.forward, self.breaks_off, self.windows = forward, breaks_off, 0

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> Any:
        if self.breaks_off is not None and self.windows >= self.breaks_off:
            raise KeyboardInterrupt
        self.windows += len(batch["input_ids"])
        return self.forward(batch)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "PART", PART)


@pytest.fixture(scope="module")
def windows(tokenizer: Tokenizer) -> WindowSet:
    """Of several lengths, four parts and a bit."""
    examples = read_questions(ROOT / "data/sample/train.json")[:40]
    made = make_windows(examples, tokenizer, max_length=96, doc_stride=16, max_question_length=32)
    return made[: 4 * PART + 3]


@pytest.fixture(scope="module")
def forward(tiny_model: Path) -> Forward:
    return torch_forward(load_model(tiny_model, dropout=False)[0])


@pytest.fixture(scope="module")
def expected(windows: WindowSet, forward: Forward) -> list[Logits]:
    return [
        logits
        for first in range(0, len(windows), PART)
        for logits in run_windows(forward, windows[first : first + PART])
    ]


def assert_same(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for side in ("start", "end"):
            assert getattr(a, side).dtype == np.float32
            np.testing.assert_array_equal(getattr(a, side), getattr(b, side))


def test_the_teacher_says_what_the_model_does(
    tmp_path: Path, windows: WindowSet, forward: Forward, expected: list[Logits]
) -> None:
    told: list[int] = []
    write_teacher(tmp_path / "one", forward, windows, tmp_path / "parts", told.append)
    assert sum(told) == len(windows)
    assert len(list((tmp_path / "parts").glob("*.npz"))) == 5
    teacher = read_teacher(tmp_path / "one")
    assert_same(teacher, expected)
    assert_same(teacher[2:20:3], expected[2:20:3])
    assert [len(logits.start) for logits in teacher] == windows.lengths
    with pytest.raises(IndexError):
        teacher[len(windows)]
    # All at once, in other batches: the same up to rounding.
    for a, b in zip(teacher, run_windows(forward, windows), strict=True):
        np.testing.assert_allclose(a.start, b.start, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(a.end, b.end, rtol=1e-3, atol=1e-3)
    write_teacher(tmp_path / "two", forward, windows, tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_nothing_is_taught_of_no_windows(
    tmp_path: Path, windows: WindowSet, forward: Forward
) -> None:
    write_teacher(tmp_path / "teacher", forward, windows[:0], tmp_path / "parts")
    assert len(read_teacher(tmp_path / "teacher")) == 0


@pytest.mark.fault(
    "a teacher that is killed part-way", sees="what it said so far is not computed again"
)
@pytest.mark.parametrize("breaks_off", [0, 1, PART, 2 * PART + 1, 4 * PART])
def test_finished_parts_are_not_computed_again(
    tmp_path: Path, windows: WindowSet, forward: Forward, expected: list[Logits], breaks_off: int
) -> None:
    path, parts = tmp_path / "teacher", tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        write_teacher(path, Counted(forward, breaks_off), windows, parts)
    assert not path.exists()
    finished = [file for file in parts.iterdir() if file.suffix == ".npz"] if parts.exists() else []
    assert len(finished) >= breaks_off // PART
    written = {file: file.stat().st_mtime_ns for file in finished}
    told: list[int] = []
    again = Counted(forward)
    write_teacher(path, again, windows, parts, told.append)
    assert again.windows == len(windows) - PART * len(finished)
    assert sum(told) == len(windows)
    assert {file: file.stat().st_mtime_ns for file in finished} == written
    assert_same(read_teacher(path), expected)


@pytest.mark.fault("a part of the teacher's logits, damaged", sees="it is computed again")
@pytest.mark.parametrize("how", ["cut off", "short", "empty", "zeros", "gone", "other", "a byte"])
def test_a_damaged_part_is_computed_again(
    tmp_path: Path, windows: WindowSet, forward: Forward, expected: list[Logits], how: str
) -> None:
    path, parts = tmp_path / "teacher", tmp_path / "parts"
    write_teacher(path, forward, windows, parts)
    whole = path.read_bytes()
    file = sorted(parts.iterdir())[2]
    content = file.read_bytes()
    damaged = {
        "cut off": content[:-1],
        "short": content[:100],
        "empty": b"",
        "zeros": content[:200] + b"\0" * (len(content) - 400) + content[-200:],
        "other": b"not a part",
        "a byte": content[: len(content) // 2] + b"\xa5\x5a" + content[len(content) // 2 + 2 :],
    }
    if how == "gone":
        file.unlink()
    else:
        assert damaged[how] != content
        file.write_bytes(damaged[how])
    again = Counted(forward)
    write_teacher(path, again, windows, parts)
    assert again.windows == PART
    assert file.read_bytes() == content
    assert path.read_bytes() == whole
    assert_same(read_teacher(path), expected)


def test_no_damaged_byte_of_a_part_goes_unseen(
    tmp_path: Path, windows: WindowSet, forward: Forward
) -> None:
    """Of the file's own structure: names, sizes, flags and the shape of what is in it."""
    some = windows[:PART]
    path, parts = tmp_path / "teacher", tmp_path / "parts"
    write_teacher(path, forward, some, parts)
    whole = path.read_bytes()
    (file,) = parts.iterdir()
    content = file.read_bytes()
    around = [*range(200), *range(len(content) - 150, len(content))]
    for at in around:
        for byte in {content[at] ^ 1, 0, 255} - {content[at]}:
            file.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
            write_teacher(path, forward, some, parts)
            assert path.read_bytes() == whole, (at, byte)


def test_a_part_of_another_shape_is_computed_again(
    tmp_path: Path, windows: WindowSet, forward: Forward, expected: list[Logits]
) -> None:
    """A part with fewer tokens than its windows have is none of theirs."""
    path, parts = tmp_path / "teacher", tmp_path / "parts"
    write_teacher(path, forward, windows[: PART - 1], parts)
    write_teacher(path, forward, windows, parts)
    assert_same(read_teacher(path), expected)


@pytest.mark.fault("the teacher's logits, cut off or gone")
@pytest.mark.parametrize("kept", [None, 0, 100, -1])
def test_a_teacher_that_is_not_whole_is_one_line(
    tmp_path: Path, windows: WindowSet, forward: Forward, kept: int | None
) -> None:
    path = tmp_path / "logits.arrow"
    write_teacher(path, forward, windows[:4], tmp_path / "parts")
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[:kept])
    with pytest.raises(UserError, match=r"run `dvc repro teach`$") as error:
        read_teacher(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
