"""What tests share: a tiny BERT, a copy of the project, the real data beside the checkout."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import yaml

if TYPE_CHECKING:
    from tests.azurite import Azurite

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with two threads each would wait in turn
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# `make soak` tries many more cases; each run of the tests tries the same few.
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.register_profile("soak", max_examples=10_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SMALL: dict[str, Any] = {
    "dataset__max_train_examples": 48,
    "dataset__max_validation_examples": 50,
    "calibrate__examples": 16,
    "train__batch_size": 8,
    "train__max_steps": 4,
    "train__save_steps": 1,
    "train__logging_steps": 1,
    "finetune__epochs": 1,
    "finetune__max_steps": 4,
    "finetune__batch_size": 8,
    "finetune__save_steps": 1,
    "finetune__logging_steps": 1,
    "finetune__learning_rate": 1e-6,
    "evaluate__max_f1_drop": 20.0,
}
STAGES = [
    "digest",
    "check_params",
    "download_dataset",
    "download_model",
    "probe",
    "tokenize",
    "finetune",
    "teach",
    "calibrate",
    "train",
    "export",
    "infer",
    "evaluate",
    "draw",
    "package",
]


def other_python(version: str) -> str | None:
    """A Python of a version, if this machine has one that runs."""
    found = shutil.which(f"python{version}")
    others = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for python in [*([found] if found else []), *map(str, others)]:
        if subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0:
            return python
    return None


def ran(output: str) -> list[str]:
    """The stages that a `dvc repro` ran, or would run, in a fixed order."""
    return [name for name in STAGES if f"Running stage '{name}'" in output]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Decide in which order the two processes of `make test` take the files of tests.

    One reproduces the project first; the other does what needs none meanwhile. What takes longest
    comes before what can fill a gap at the end.
    """
    shared = {item.path for item in items if "reproduced" in getattr(item, "fixturenames", ())}

    def turn(item: pytest.Item) -> int:
        if item.path.name == "test_pipeline.py":
            return 0
        if item.path not in shared:
            return 1
        return 2 if "reruns" in item.path.name else 3

    items.sort(key=turn)


@pytest.fixture(scope="session")
def encoder() -> Path:
    """The embedded model's encoder, for its tokenizer."""
    from bert_qa.adapter import encoder_folder

    return encoder_folder()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """The embedded model's tokenizer, as `download_model` leaves it."""
    from bert_qa.intake import build_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(encoder, folder, "the encoder")
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Any:
    from bert_qa.windows import load_tokenizer

    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def tiny_model(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path, tokenizer: Any
) -> Path:
    """A checkpoint of two layers, 64 wide, random weights, question-answering head included."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    from bert_qa.checkpoints import save_checkpoint

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        vocab_size=tokenizer.backend.get_vocab_size(),
        initializer_range=0.5,  # large weights, so that answers depend on the input
    )
    folder = tmp_path_factory.mktemp("tiny")
    save_checkpoint(folder, BertForQuestionAnswering(config), tokenizer_folder)
    return folder


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tokenizer: Any) -> Path:
    """The tiny checkpoint in ONNX, as the export stage writes it."""
    from bert_qa.checkpoints import load_model
    from bert_qa.export import to_onnx, write_folder
    from bert_qa.squad import Example
    from bert_qa.windows import make_windows

    windows = make_windows(
        [Example("", "Who?", "Ada was here."), Example("", "Where?", "Ada was in London.")],
        tokenizer,
        max_length=96,
        doc_stride=16,
        max_question_length=32,
    )
    model, _ = load_model(tiny_model, dropout=False)
    folder = tmp_path_factory.mktemp("onnx")
    write_folder(folder, to_onnx(model, windows, {}), tiny_model)
    return folder


@pytest.fixture
def shared_squad() -> Path:
    """The real data beside the checkout; only there."""
    folder = SHARED / "squad"
    if not folder.is_dir():
        pytest.skip("no real SQuAD data beside this checkout")
    return folder


@pytest.fixture
def shared_model() -> Path:
    """The fine-tuned model beside the checkout; only there."""
    folder = SHARED / "models/minilm-squad"
    if not folder.is_dir():
        pytest.skip("no fine-tuned model beside this checkout")
    return folder


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.invalid",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.invalid",
    }


class Project:
    """A git clone of the working tree, in which stages and DVC run as a user would run them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.env = folder, _environment()
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout.decode()
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.git("init", "-q")
        self.commit("start")

    def clone(self, folder: Path) -> Project:
        """A git clone, without cache, outputs or .dvc/config.local."""
        subprocess.run(["git", "clone", "-q", self.folder, folder], check=True)
        copy = self.there(folder)
        copy.env = dict(self.env)
        return copy

    @classmethod
    def there(cls, folder: Path) -> Project:
        """A project that lies in a folder already."""
        project = cls.__new__(cls)
        project.folder, project.env = folder, _environment()
        return project

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; standard output and error come back as text."""
        options = {"capture_output": True, "text": True, **options}
        return subprocess.run(command, cwd=self.folder, env=self.env, check=False, **options)

    def stage(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a stage in this process, which has torch already: for a stage that ends soon."""
        from importlib import import_module

        from bert_qa.errors import run

        output, error, status = io.StringIO(), io.StringIO(), 0
        with chdir(self.folder), redirect_stdout(output), redirect_stderr(error):
            try:
                run(import_module(f"stages.{name}").main)
            except SystemExit as end:
                status = int(end.code or 0)
        return subprocess.CompletedProcess([name], status, output.getvalue(), error.getvalue())

    def check(self, *command: str) -> str:
        """Run a command that must succeed; its standard output and error."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *arguments: str) -> str:
        return self.check("git", *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)

    def set(self, **values: Any) -> None:
        """Set parameters: `train__epochs=1` is `train.epochs`."""
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, value in values.items():
            section, name = key.split("__")
            content[section][name] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def lock(self) -> dict[str, Any]:
        """What dvc.lock says of the stages."""
        text = (self.folder / "dvc.lock").read_text(encoding="utf-8")
        stages: dict[str, Any] = yaml.safe_load(text)["stages"]
        return stages


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy of the project."""
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project after one `dvc repro`; tests may change params but not outputs.

    Each process of the tests has its own, from one run of the pipeline.
    """

    def reproduce(folder: Path) -> None:
        folder.mkdir()
        project = Project(folder)
        project.set(**SMALL)
        output = project.check("dvc", "repro")
        # Where dvc.lock is that of these sources, `digest` has nothing to do.
        assert [name for name in ran(output) if name != "digest"] == STAGES[1:]
        project.commit("reproduced")

    first = _once(tmp_path_factory, "reproduced", reproduce)
    copy = tmp_path_factory.mktemp("pipeline") / "project"
    shutil.copytree(first, copy, symlinks=True)
    return Project.there(copy)


def _once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """A folder that the first process of the tests to want it makes, for all of them."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with Path(f"{folder}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Path(f"{folder}.done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            Path(f"{folder}.done").touch()
    return folder


@dataclass(frozen=True)
class Retrained:
    """A clone of the reproduced project, one commit on: another model, and the stages it took."""

    project: Project
    ran: list[str]
    diff: str
    """Of the digest of `calibrate`, as git shows it."""

    cache: str
    """DVC's, with the outputs of both commits."""


@pytest.fixture(scope="session")
def retrained(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """The reproduced project after an edit of GPTQ and a `dvc repro`; not to be changed."""

    def retrain(folder: Path) -> None:
        project = reproduced.clone(folder)
        cache = str(reproduced.folder / ".dvc/cache")
        project.check("dvc", "cache", "dir", "--local", cache)
        project.check("dvc", "checkout", "-q")
        gptq = folder / "bert_qa/quantization/gptq.py"
        text = gptq.read_text(encoding="utf-8")
        assert text.count("DAMPING = 0.01") == 1
        gptq.write_text(text.replace("DAMPING = 0.01", "DAMPING = 0.5"), encoding="utf-8")
        output = project.check("dvc", "repro")
        diff = project.git("diff", "-U0", "--", "digests/calibrate.json")
        project.commit("more damping")
        Path(f"{folder}.json").write_text(json.dumps([ran(output), diff, cache]), encoding="utf-8")

    folder = _once(tmp_path_factory, "retrained", retrain)
    made = json.loads(Path(f"{folder}.json").read_text(encoding="utf-8"))
    return Retrained(Project.there(folder), *made)


@pytest.fixture
def unchanged(reproduced: Project) -> Iterator[Project]:
    """The reproduced project; its params and lock are put back afterwards."""
    yield reproduced
    reproduced.git("checkout", "-q", "--", ".")
    reproduced.git("clean", "-q", "-f", "-d")
    reproduced.check("dvc", "checkout", "-q", "-f")


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure Storage on a free port, empty."""
    from tests.azurite import Azurite

    if shutil.which("npm") is None:
        pytest.skip("no npm to install Azurite with")
    started = Azurite(tmp_path_factory.mktemp("azurite"))
    yield started
    started.kill()
