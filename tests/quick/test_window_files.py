"""Windows in a file: what is read is what was written, a window at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bert_qa import window_files
from bert_qa.errors import UserError
from bert_qa.squad import Example, read_questions
from bert_qa.window_files import read_windows, write_windows
from bert_qa.windows import Tokenizer, WindowSet, label_windows, make_windows
from tests.conftest import ROOT

SIZES: dict[str, Any] = {"max_length": 96, "doc_stride": 16, "max_question_length": 32}
LONG = Example("long", "Where was it?", "Ada was in London, Byron in Greece. " * 60)
EXAMPLES = [*read_questions(ROOT / "data/sample/train.json")[:18], LONG, replace(LONG, id="end")]


def written(path: Path, tokenizer: Tokenizer, examples: Sequence[Example] = EXAMPLES) -> list[int]:
    """Write a file of windows; what the progress was told."""
    told: list[int] = []
    write_windows(
        path,
        examples,
        lambda some: make_windows(some, tokenizer, **SIZES),
        tokenizer.pad_token_id,
        told.append,
    )
    return told


def assert_same(ours: WindowSet, theirs: WindowSet) -> None:
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours.lengths == theirs.lengths
    for a, b in zip(ours, theirs, strict=True):
        assert (a.example, a.reads) == (b.example, b.reads)
        assert (a.token_type_ids is None) == (b.token_type_ids is None)
        for key in ("input_ids", "token_type_ids", "starts", "ends"):
            if getattr(b, key) is not None:
                np.testing.assert_array_equal(getattr(a, key), getattr(b, key))


@pytest.mark.parametrize("token_types", [True, False])
def test_what_is_read_is_what_was_tokenized(
    tmp_path: Path, tokenizer: Tokenizer, token_types: bool
) -> None:
    like = replace(tokenizer, has_token_types=token_types, pad_token_id=7)
    path = tmp_path / "windows.arrow"
    assert written(path, like) == [len(EXAMPLES)]
    made = make_windows(EXAMPLES, like, **SIZES)
    expected = label_windows(made, EXAMPLES)
    read = read_windows(path)
    assert_same(read.windows, made)
    assert read.windows.examples == len(EXAMPLES)
    np.testing.assert_array_equal(read.starts, expected.starts)
    np.testing.assert_array_equal(read.ends, expected.ends)
    assert read.starts.dtype == read.ends.dtype == np.int32
    assert read.starts.any()
    batch, wanted = read.windows.pad(), made.pad()
    assert batch.keys() == wanted.keys()
    assert ("token_type_ids" in batch) is token_types
    for key, array in wanted.items():
        assert batch[key].dtype == array.dtype
        np.testing.assert_array_equal(batch[key], array)
    answer = EXAMPLES[0].answers[0]
    assert read.windows[0].locate(answer) == made[0].locate(answer)
    with pa.memory_map(str(path)) as file:
        ids = pa.ipc.open_file(file).read_all()["id"].to_pylist()
    assert ids == [EXAMPLES[window.example].id for window in made]


@pytest.mark.parametrize("examples", [1, 6, 10, 20])
def test_chunks_are_for_memory_alone(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    """Also where the last one is full, and where it is short."""
    monkeypatch.setattr(window_files, "EXAMPLES", examples)
    path = tmp_path / "windows.arrow"
    told = written(path, tokenizer)
    assert told == [min(examples, 20 - first) for first in range(0, 20, examples)]
    with pa.memory_map(str(path)) as file:
        assert pa.ipc.open_file(file).num_record_batches == len(told)
    read, made = read_windows(path), make_windows(EXAMPLES, tokenizer, **SIZES)
    assert_same(read.windows, made)
    expected = label_windows(made, EXAMPLES)
    np.testing.assert_array_equal(read.starts, expected.starts)
    np.testing.assert_array_equal(read.ends, expected.ends)


def test_the_same_windows_are_the_same_bytes(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_files, "EXAMPLES", 7)
    for name in ("one", "two"):
        written(tmp_path / name, tokenizer)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    written(tmp_path / "two", tokenizer, EXAMPLES[::-1])
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()


@pytest.mark.fault("tokenized windows, cut off or gone")
@pytest.mark.parametrize("kept", [None, 0, 5, 1000, 0.5, -1])
def test_a_file_that_is_not_whole_is_one_line(
    tmp_path: Path, tokenizer: Tokenizer, kept: float | None
) -> None:
    path = tmp_path / "windows.arrow"
    written(path, tokenizer)
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(UserError, match=r"run `dvc repro tokenize`$") as error:
        read_windows(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_fails_leaves_no_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"windows\.max_length"):
        written(tmp_path / "windows.arrow", replace(tokenizer, model_max_length=32))
    assert not list(tmp_path.iterdir())


def test_windows_lie_in_the_file_and_not_in_memory(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_files, "EXAMPLES", 7)
    path = tmp_path / "windows.arrow"
    written(path, tokenizer)
    made = make_windows(EXAMPLES, tokenizer, **SIZES)
    before = pa.total_allocated_bytes()
    windows = read_windows(path).windows
    assert windows.lengths == made.lengths  # which are known without reading a window
    assert windows.known_lengths is not None
    kept = [windows[i] for i in range(len(windows))]
    assert pa.total_allocated_bytes() == before
    for window in kept:
        for array in (window.input_ids, window.token_type_ids, window.starts, window.ends):
            assert isinstance(array, np.ndarray)
            assert not array.flags.owndata
            assert not array.flags.writeable
    path.unlink()  # as when the next run replaces it: what was opened stays
    assert_same(windows, made)


def test_windows_are_taken_by_index_slice_and_example(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_files, "EXAMPLES", 7)
    path = tmp_path / "windows.arrow"
    written(path, tokenizer)
    windows = read_windows(path).windows
    made = make_windows(EXAMPLES, tokenizer, **SIZES)
    last = len(made)
    for index in (0, last - 1, -1, -2, -last):
        assert_same(WindowSet([windows[index]], 0), WindowSet([made[index]], 0))
    for index in (last, -last - 1, last + 1000):
        with pytest.raises(IndexError):
            windows[index]
    for some in (slice(4), slice(-3, None), slice(None, None, -5), slice(2, 2), slice(9, 10**6)):
        assert_same(windows[some], made[some])
        assert_same(WindowSet(windows.windows[some], windows.pad_token_id), made[some])
    assert_same(windows.take([5, 0, -1, 5]), made.take([5, 0, -1, 5]))
    assert_same(windows.of_examples({19, 0, 7}), made.of_examples([7, 19, 0]))
    assert [w.example for w in windows.of_examples({19, 0})] == sorted(
        window.example for window in made if window.example in {0, 19}
    )
    np.testing.assert_array_equal(
        windows.pad([-1, 3], length=96)["input_ids"], made.pad([-1, 3], length=96)["input_ids"]
    )
