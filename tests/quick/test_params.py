"""params.yaml: what is right is read, what is wrong is named."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml
from hypothesis import given
from hypothesis import strategies as st

from bert_qa.errors import UserError, one_line
from bert_qa.params import _load, read_all_params
from tests.conftest import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def with_line(tmp_path: Path, old: str, new: str) -> Path:
    assert TEXT.count(old) >= 1
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_defaults_are_valid() -> None:
    params = read_all_params(ROOT / "params.yaml")
    assert params.dataset.name == "sample"
    assert params.finetune.epochs == "auto"
    assert params.finetune.learning_rate == 3e-5


def test_numbers_as_yaml_and_dvc_write_them(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-05 as a string, and 2 as an integer.
    path = with_line(tmp_path, "learning_rate: 3.0e-5", "learning_rate: 1e-05")
    assert read_all_params(path).finetune.learning_rate == 1e-5
    path = with_line(tmp_path, "epochs: auto", "epochs: 2")
    assert read_all_params(path).finetune.epochs == 2


@pytest.mark.fault("in params.yaml, in place of {old}: {new}")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("batch_size: 16", "batch_size: 0", r"finetune\.batch_size: found 0; .*greater than"),
        ("batch_size: 16", "batch_size: many", r"finetune\.batch_size: found 'many'; .*integer"),
        ("batch_size: 16", "batchsize: 16", r"finetune\.batchsize: no such parameter; fix its"),
        ("  batch_size: 16\n", "", r"finetune\.batch_size: missing; add it"),
        ("input: data/input.csv", "input: ''", r"infer\.input: found ''; .*at least 1 character"),
        ("  seed: 42\n\nmodel", "  seeds: 1\n  seed: 42\n\nmodel", r"dataset\.seeds: no such"),
        ("epochs: auto", "epochs: some", r"finetune\.epochs: found 'some'; .*'auto'.* or .*number"),
        ("preset: mixed", "preset: fast", r"calibrate\.preset: found 'fast'; .*'mixed' or 'perf"),
        (
            "batch_size: 16",
            "batch_size: 4294967296",
            r"finetune\.batch_size: .*less than 2147483648",
        ),
        ("learning_rate: 3.0e-5", "learning_rate: .nan", r"learning_rate: found NaN; .*finite"),
        (
            "learning_rate: 3.0e-5",
            "learning_rate: -.inf",
            r"learning_rate: found -Infinity; .*finite",
        ),
        (
            "learning_rate: 3.0e-5",
            "learning_rate: '1e-5'",
            r"learning_rate: found '1e-5'; .*number",
        ),
        ("max_steps: null", "max_steps: true", r"finetune\.max_steps: found true; .*integer"),
        ("shift_channels: true", "shift_channels: yes", r"found 'yes'; write true or false"),
        ("on_bad_answer: fail", "on_bad_answer: keep", r"on_bad_answer: .*'fail' or 'drop'"),
        ("on_error: fail", "on_error: drop", r"infer\.on_error: .*'fail' or 'keep'"),
        ("sessions: auto", "sessions: 0", r"infer\.sessions: found 0; .*'auto' or .*equal to 1"),
        ("input: data/input.csv", 'input: "a\\0b"', r"infer\.input: .*cannot hold a NUL"),
        ("name: sample", 'name: "\\ud800"', r"dataset\.name: found '\\ud800'; .*valid string"),
        ("max_length: 384", "max_length: 195", r"windows\.max_length: found 195; .*leaves 128 for"),
        ("name: minilm-squad", "name: folder\n  ? [a]\n  : b", r"no such parameter"),
        ("infer:\n", "infer: 1\n_:\n", r"_: no such .*; infer: found 1; its keys are"),
        ("dataset:", "? {}\n: 1\ndataset:", r"not YAML: .* at line \d"),
        ("dataset:", "\ta: 1\ndataset:", r"not YAML: .* cannot start any token at line \d"),
        ("seed: 42", "seed: 42\n  seed: 43", "not YAML: found duplicate key .seed"),
        ("seed: 42", "seed: !!bool x", "a value cannot be read: "),
        ("seed: 42", "seed: 2001-99-99", "a value cannot be read: month must be"),
        ("seed: 42", "seed: !!python/object:os.system x", "not YAML: could not determine a constr"),
        ("seed: 42", "seed: " + "9" * 5000, "a value cannot be read: Exceeds .* has 5000 digits$"),
        ("seed: 42", "seed: " + "[" * 1000, "nested too deeply"),
        ("seed: 42", "seed: &a [*a]", r"dataset\.seed: found \[\[.*integer"),
        ("dataset:", "dataset: [", "not YAML"),
        ("provider: OpenVINOExec", "provider: CUDAExec", r"infer\.provider: found 'CUDAExecutionP"),
        (
            "provider: OpenVINOExecutionProvider # or CPUExecutionProvider\n  precision: fp32",
            "provider: CPUExecutionProvider\n  precision: bf16",
            r": infer\.precision: found 'bf16'; CPUExecutionProvider computes in fp32 only: set",
        ),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        read_all_params(with_line(tmp_path, old, new))
    assert one_line(str(raised.value)) == str(raised.value)


@pytest.mark.fault("many wrong parameters")
def test_every_wrong_key_is_named_in_one_line_ten_at_most(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("seed: 42", "seed: -1").replace("warmup_ratio", "warm_up"))
    with pytest.raises(UserError) as raised:
        read_all_params(path)
    wrong = re.findall(r"[:;] (\w+\.\w+): (?:found|no such|missing)", str(raised.value))
    assert wrong == [
        "finetune.warm_up",
        "train.warm_up",
        "dataset.seed",
        "finetune.warmup_ratio",
        "finetune.seed",
        "calibrate.seed",
        "train.warmup_ratio",
        "train.seed",
    ]
    path.write_text("a: 1\n")
    with pytest.raises(UserError, match=r"a: no such .*; and 2 more$"):
        read_all_params(path)


VALUES_OF_YAML = """0600 0o17 0x10 0b1 1_000 +1 1,5 0.1.2 1e5 1e-05 3.0e-5 .5 5. .inf -.inf .nan
yes on no y True true ~ null '1' 12:30 2001-01-01 [1,2] &a {a:1} !!str"""


@pytest.mark.parametrize("value", ["", "|\n    x", "!!float 1", "{a: 1}", *VALUES_OF_YAML.split()])
def test_a_value_is_read_as_dvc_reads_it(tmp_path: Path, value: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"section:\n  key: {value}\n", encoding="utf-8")
    assert repr(_load(path)) == repr(load_yaml(str(path)))  # of .nan too, which equals nothing


@pytest.mark.fault("in params.yaml: {value}")
@pytest.mark.parametrize("value", ["{a: 1, a: 2}", "=", "<<", "*a", "{{}: 1}", "@", "%"])
def test_what_dvc_cannot_read_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"section:\n  key: {value}\n", encoding="utf-8")
    with pytest.raises(YAMLFileCorruptedError):
        load_yaml(str(path))
    with pytest.raises(UserError, match="not YAML: "):
        read_all_params(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0600", 600), ("1e-05", 1e-05), ("1_000", 1000), ("0x10", 16), ("&a 7", 7), ("1e2", None)],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: int | None) -> None:
    path = with_line(tmp_path, "max_steps: null", f"max_steps: {text}")
    if isinstance(value, int):
        assert read_all_params(path).finetune.max_steps == value
    else:
        with pytest.raises(UserError, match=r"finetune\.max_steps: found .*integer"):
            read_all_params(path)


@pytest.mark.fault("an output that is the input, or params.yaml")
def test_the_answers_do_not_replace_what_they_are_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_line(tmp_path, "name: sample", "name: files")
    text = path.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/input.csv").write_text("x")
    (tmp_path / "symbolic.csv").symlink_to("data/input.csv")
    os.link(tmp_path / "data/input.csv", tmp_path / "hard.csv")
    (tmp_path / "folder").symlink_to("data")
    (tmp_path / "to_nowhere.csv").symlink_to("data/sample/train.json")
    for output, taken in {
        "data/../data/input.csv": "infer.input",
        str(tmp_path / "data/input.csv"): "infer.input",
        "symbolic.csv": "infer.input",
        "hard.csv": "infer.input",
        "folder/input.csv": "infer.input",
        "to_nowhere.csv": "dataset.train_file",
        "./data//sample/validation.json": "dataset.validation_file",
        "./params.yaml": "the file of the parameters",
    }.items():
        path.write_text(text.replace("output: data/output.csv", f"output: {output}"))
        with pytest.raises(UserError, match=rf"infer\.output: found .*, which is {taken}; the ans"):
            read_all_params(path)
    path.write_text(text)
    read_all_params(path)


@pytest.mark.fault("one file as training and validation set")
def test_the_validation_set_is_not_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_line(tmp_path, "name: sample", "name: files")
    text = path.read_text(encoding="utf-8").replace("data/sample/train.json", "train.json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.json").write_text("{}")
    (tmp_path / "other.json").symlink_to("train.json")
    for name in ("./train.json", "other.json"):
        path.write_text(text.replace("data/sample/validation.json", name))
        with pytest.raises(UserError, match=r"dataset\.validation_file: .* is dataset\.train_file"):
            read_all_params(path)


@pytest.mark.fault("in params.yaml: {says}")
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "data/sample/train.json",
            "mine.json",
            r"dataset\.name: found 'sample' with files of your",
        ),
        ("models/minilm-squad", "mine", r"model\.name: found 'minilm-squad' with a folder of your"),
    ],
)
def test_what_is_embedded_has_its_own_files(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_all_params(with_line(tmp_path, f": {old}", f": {new}"))


def test_auto_epochs_depend_on_the_head() -> None:
    finetune = read_all_params(ROOT / "params.yaml").finetune
    assert (finetune.epochs_for(True), finetune.epochs_for(False)) == (0, 2)
    none = finetune.model_copy(update={"epochs": 0})
    assert none.epochs_for(True) == 0
    with pytest.raises(UserError, match=r"finetune\.epochs: found 0, but the model's .* is new"):
        none.epochs_for(False)


@pytest.mark.fault("a params.yaml that is empty, or not UTF-8")
def test_an_empty_file_and_one_that_is_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="no parameters in it"):
        read_all_params(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        read_all_params(path)
    path.write_bytes(b"a: \0")
    with pytest.raises(UserError, match="not YAML: unacceptable character"):
        read_all_params(path)


@pytest.mark.fault("no params.yaml")
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; run from the root"):
        read_all_params(tmp_path / "params.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        with pytest.raises(UserError, match="not a file"):
            read_all_params(path)


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
VALUES = yaml.safe_load(TEXT)
KEYS = [(section, key) for section, values in VALUES.items() for key in values]


@given(
    st.dictionaries(st.sampled_from(KEYS) | st.tuples(st.text(), st.text()), ANY_VALUE, max_size=3)
)
def test_any_values_are_read_or_refused_in_one_line(values: dict[tuple[str, str], Any]) -> None:
    content: dict[str, dict[str, Any]] = copy.deepcopy(VALUES)
    for (section, key), value in values.items():
        content.setdefault(section, {})[key] = value
    _is_read_or_refused(yaml.dump(content, Dumper=yaml.CSafeDumper, allow_unicode=True).encode())


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode), st.integers(0, len(TEXT)))
def test_any_bytes_in_it_are_read_or_refused_in_one_line(inserted: bytes, at: int) -> None:
    _is_read_or_refused(TEXT.encode()[:at] + inserted + TEXT.encode()[at:])


@given(st.sampled_from("{}[]:,-?!&*#|>%@`'\"\n\t ~<"), st.integers(0, len(TEXT) - 1))
def test_any_sign_of_yaml_in_it_is_read_or_refused_in_one_line(sign: str, at: int) -> None:
    _is_read_or_refused((TEXT[:at] + sign + TEXT[at + 1 :]).encode())


def _is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_bytes(content)
        try:
            params = read_all_params(path)
        except UserError as error:
            assert one_line(str(error)) == str(error)
        else:
            assert params.windows.max_length > params.windows.doc_stride
