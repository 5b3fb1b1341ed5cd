"""params.yaml: what is right is read, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa.errors import UserError
from qa.params import read_params
from tests.conftest import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def with_line(tmp_path: Path, old: str, new: str) -> Path:
    assert TEXT.count(old) >= 1
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_defaults_are_valid() -> None:
    params = read_params(ROOT / "params.yaml")
    assert params.dataset.name == "sample"
    assert params.finetune.epochs == "auto"
    assert params.finetune.learning_rate == 3e-5


def test_numbers_as_yaml_and_dvc_write_them(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-05 as a string, and 2 as an integer.
    path = with_line(tmp_path, "learning_rate: 3.0e-5", "learning_rate: 1e-05")
    assert read_params(path).finetune.learning_rate == 1e-5
    path = with_line(tmp_path, "epochs: auto", "epochs: 2")
    assert read_params(path).finetune.epochs == 2


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("batch_size: 16", "batch_size: 0", r"finetune\.batch_size: found 0; .*greater than"),
        ("batch_size: 16", "batch_size: many", r"finetune\.batch_size: found 'many'; .*integer"),
        ("batch_size: 16", "batchsize: 16", r"finetune\.batchsize: no such parameter; mend its"),
        ("  batch_size: 16\n", "", r"finetune\.batch_size: missing; add it"),
        ("input: data/input.csv", "input: ''", r"infer\.input: found ''; .*at least 1 character"),
        ("  seed: 42\n\nmodel", "  seeds: 1\n  seed: 42\n\nmodel", r"dataset\.seeds: no such"),
        ("epochs: auto", "epochs: some", r"finetune\.epochs: found 'some'; .*'auto'.* or .*number"),
        ("preset: mixed", "preset: fast", r"calibrate\.preset: found 'fast'; .*'mixed' or 'perf"),
        ("output: data/output.csv", "output: ./data/input.csv", r"infer\.output: .*would replace"),
        ("dataset:", "dataset: [", "not YAML"),
        ("provider: OpenVINOExec", "provider: CUDAExec", r"infer\.provider: found 'CUDAExecutionP"),
        (
            "provider: OpenVINOExecutionProvider # or CPUExecutionProvider\n  precision: fp32",
            "provider: CPUExecutionProvider\n  precision: bf16",
            r"infer\.precision: found 'bf16'; .*CPUExecutionProvider computes in fp32 alone",
        ),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_params(with_line(tmp_path, old, new))


def test_an_empty_file_and_one_that_is_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="no parameters in it"):
        read_params(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        read_params(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; run from the root"):
        read_params(tmp_path / "params.yaml")
