"""Disks that are full or broken, files that are cut off, homes, masks and locales that are odd."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_qa.checkpoints import load_model
from bert_qa.errors import UserError
from bert_qa.windows import load_tokenizer
from tests.conftest import ROOT
from tests.faults import marked

FORMER = "the former answers\n"
Done = subprocess.CompletedProcess[str]


class Place:
    """A folder with params.yaml, in which stages run without DVC."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.output = folder / "output.csv"
        rows = [f'"{number}. Ada was in London.",Who was in London?' for number in range(30)]
        (folder / "input.csv").write_text("\n".join(["Context,Question", *rows]) + "\n")
        self.set()

    def set(self, **sections: dict[str, Any]) -> None:
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        content["infer"] |= {"input": "input.csv", "output": "output.csv", "sessions": 1}
        content["dataset"] |= {
            "name": "files",
            "train_file": str(ROOT / "data/sample/train.json"),
            "validation_file": str(ROOT / "data/sample/validation.json"),
        }
        for section, values in sections.items():
            content[section] |= values
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def run(self, stage: str, *before: str | Path, **options: Any) -> Done:
        """Run a stage, after another command's name and options, if there are some."""
        command = [*before, sys.executable, ROOT / f"stages/{stage}.py"]
        if stage == "infer":
            command += ["--model", self.model]
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, **options.pop("env", {})},
            capture_output=True,
            text=True,
            check=False,
            **options,
        )


def failed(done: Done) -> str:
    """The one line by which a command that failed says so."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    (line,) = re.findall(r"^error: (.*)$", done.stderr, re.MULTILINE)
    return str(line)


def went_through(done: Done) -> None:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def place(tmp_path: Path, tiny_onnx: Path) -> Place:
    return Place(tmp_path, tiny_onnx)


@pytest.fixture(scope="module")
def answers(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the table of a place is answered with when nothing happens."""
    place = Place(tmp_path_factory.mktemp("answers"), tiny_onnx)
    went_through(place.run("infer"))
    return place.output.read_bytes()


def tampering(file: Path, call: str, error: str) -> list[str]:
    """What to put before a command, so that a system call on a file fails in it."""
    trace = ["strace", "-f", "-qq", "-o", os.devnull, "-P", str(file), "-e", f"trace={call}"]
    if shutil.which("strace") is None or subprocess.run([*trace, "true"], check=False).returncode:
        pytest.skip("no strace, or no right to trace, to let a system call fail")
    return [*trace, "-e", f"inject={call}:error={error}:when=1+"]


UNFINISHED = ".output.csv.partial"


@pytest.mark.fault("{error} at {call} of {file}, while a table is answered")
@pytest.mark.parametrize(
    ("file", "call", "error"),
    [
        (f"{UNFINISHED}/output.csv", "write", "EIO"),
        (f"{UNFINISHED}/output.csv", "fsync", "ENOSPC"),
        (f"{UNFINISHED}/journal.sqlite-wal", "pwrite64", "EIO"),
        (f"{UNFINISHED}/journal.sqlite-wal", "pwrite64", "ENOSPC"),
        (f"{UNFINISHED}/journal.sqlite", "openat", "EACCES"),
    ],
)
def test_a_disk_that_fails_under_a_table_is_named_and_it_goes_on_later(
    place: Place, answers: bytes, file: str, call: str, error: str
) -> None:
    place.output.write_text(FORMER)
    done = place.run("infer", *tampering(place.folder / file, call, error))
    words = {"EIO": "Input/output error", "ENOSPC": "No space left", "EACCES": "unable to open"}
    assert words[error] in (line := failed(done))
    assert "output.csv" in line or "journal.sqlite" in line
    assert place.output.read_text() == FORMER
    went_through(place.run("infer"))
    assert place.output.read_bytes() == answers


@pytest.mark.fault("{error} when the output of {stage} is written")
@pytest.mark.parametrize(
    ("stage", "call", "error", "output"),
    [
        ("download_dataset", "write", "EIO", "data/.squad.partial/.train.jsonl.partial"),
        ("download_model", "write", "ENOSPC", "models/.base.partial/config.json"),
    ],
)
def test_a_disk_that_fails_under_a_stage_is_named_and_the_former_output_stays(
    place: Place, tiny_model: Path, stage: str, call: str, error: str, output: str
) -> None:
    place.set(model={"name": "folder", "folder": str(tiny_model)})
    former = place.folder / output.replace("/.", "/").partition(".partial")[0]
    former.mkdir(parents=True)
    (former / "former").write_text(FORMER)
    failed(place.run(stage, *tampering(place.folder / output, call, error)))
    assert [file.name for file in former.iterdir()] == ["former"]
    assert list(former.parent.iterdir()) == [former]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 192 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault("a full disk, in {stage}")
@pytest.mark.parametrize("stage", ["download_dataset", "download_model", "infer"])
def test_a_full_disk_is_named(
    small_disk: Path, tiny_onnx: Path, tiny_model: Path, stage: str
) -> None:
    place = Place(small_disk, tiny_onnx)
    place.set(model={"name": "folder", "folder": str(tiny_model)})
    (small_disk / "filler").write_bytes(b"x" * 100_000)
    assert "No space left on device" in failed(place.run(stage))


@pytest.mark.fault("a limit on the size of files, in {stage}")
@pytest.mark.parametrize("stage", ["download_dataset", "download_model"])
def test_a_limit_on_the_size_of_files_is_named(place: Place, tiny_model: Path, stage: str) -> None:
    place.set(model={"name": "folder", "folder": str(tiny_model)})

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    assert "File too large" in failed(place.run(stage, preexec_fn=limit))


@pytest.mark.fault("a folder that may not be written to, in {stage}")
@pytest.mark.parametrize("stage", ["download_dataset", "infer"])
def test_a_folder_that_may_not_be_written_to_is_named(place: Place, stage: str) -> None:
    command = list[str]()
    if os.geteuid() == 0:  # whom no mode keeps from writing, but for this capability
        command = ["setpriv", "--bounding-set=-dac_override"]
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv, to be root and have no right to all")
    place.folder.chmod(0o555)
    try:
        assert "Permission denied" in failed(place.run(stage, *command))
    finally:
        place.folder.chmod(0o755)


@pytest.mark.fault("a file of an exported model, cut off: {name}")
@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "tokenizer_config.json"])
def test_an_exported_model_that_is_cut_off_is_named(
    place: Place, tiny_onnx: Path, name: str
) -> None:
    place.model = place.folder / "model"
    shutil.copytree(tiny_onnx, place.model)
    file = place.model / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    place.output.write_text(FORMER)
    assert "model" in failed(place.run("infer"))
    assert place.output.read_text() == FORMER


@pytest.mark.fault("a file of a checkpoint, cut off: {name}")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_checkpoint_that_is_cut_off_is_named(tmp_path: Path, tiny_model: Path, name: str) -> None:
    base = tmp_path / "models/base"
    shutil.copytree(tiny_model, base)
    (base / name).write_bytes((base / name).read_bytes()[: (base / name).stat().st_size // 2])
    with pytest.raises(UserError, match="models/base"):
        load_tokenizer(base)
        load_model(base, dropout=False)


@pytest.mark.fault("metrics or model of a package: {how}")
@pytest.mark.parametrize(
    ("how", "file", "spoilt"),
    [
        ("metrics cut off", "metrics/evaluation.json", b'{"fp32": {"f1'),
        ("metrics of another shape", "metrics/evaluation.json", b'{"fp32": []}'),
        ("metrics that are a list", "metrics/evaluation.json", b"[1]"),
        ("metrics in another encoding", "metrics/evaluation.json", b"\xff\xfe"),
        ("no model", "models/onnx/qat/model.onnx", b""),
        ("a model cut off", "models/onnx/qat/model.onnx", b"\x08"),
        ("a config cut off", "models/onnx/qat/config.json", b"{"),
    ],
)
def test_what_a_package_is_made_of_is_named_when_spoilt(
    place: Place, tiny_onnx: Path, how: str, file: str, spoilt: bytes
) -> None:
    shutil.copytree(tiny_onnx, place.folder / "models/onnx/qat")
    (place.folder / "metrics").mkdir()
    shutil.copy(ROOT / "metrics/evaluation.json", place.folder / "metrics")
    (place.folder / file).write_bytes(spoilt)
    said = failed(place.run("package"))
    assert file.partition("/")[0] in said
    assert "dvc repro" in said
    assert not (place.folder / "models/bert-qa-int8").exists()


@pytest.mark.fault(
    "a compiled model in .cache/openvino, {how}", sees="the same answers; it is compiled anew"
)
@pytest.mark.parametrize("how", ["cut off", "empty", "zeros in the middle"])
def test_a_damaged_cache_of_compiled_models_changes_nothing(
    place: Place, answers: bytes, how: str
) -> None:
    went_through(place.run("infer"))
    (blob,) = place.folder.glob(".cache/openvino/*.blob")
    content = blob.read_bytes()
    third = len(content) // 3
    blob.unlink()
    blob.write_bytes(
        {
            "cut off": content[: 2 * third],
            "empty": b"",
            "zeros in the middle": content[:third] + b"\0" * third + content[2 * third :],
        }[how]
    )
    went_through(place.run("infer"))
    assert place.output.read_bytes() == answers


@pytest.mark.fault("{what}", sees="the same answers")
@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("a umask of 077", {"umask": 0o077}),
        ("a home that cannot be written to", {"env": {"HOME": "/dev/null/home"}}),
        ("no locale", {"env": {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}}),
        ("no PATH", {"env": {"PATH": ""}}),
        ("a temporary folder that is not there", {"env": {"TMPDIR": "/none"}}),
    ],
)
def test_odd_surroundings_change_no_answer(
    place: Place, answers: bytes, what: str, options: dict[str, Any]
) -> None:
    went_through(place.run("infer", **options))
    assert place.output.read_bytes() == answers
    went_through(place.run("download_dataset", **options))
    assert (place.folder / "data/squad/train.jsonl").stat().st_size > 10_000


def test_docs_list_every_marked_test_and_no_other() -> None:
    page = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\| `(tests/\w+/test_\w+\.py::\w+)` \|$", page, re.MULTILINE))
    assert listed == marked(), "run `make faults`"
    assert "Traceback" not in page
