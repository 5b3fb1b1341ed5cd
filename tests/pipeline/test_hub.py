"""Models and data sets of the hub, through the real clients and a small hub on loopback."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from bert_qa.squad import read_examples, read_questions
from tests.conftest import ROOT, Project
from tests.hub_server import Break, hub

BUILT = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
OLD, NEW = "a" * 40, "b" * 40
MODEL, DATASET = "someone/tiny-squad", "someone/squad"


def parquet(split: str, count: int) -> bytes:
    """The sample in the schema and the file format of rajpurkar/squad."""
    examples = read_questions(ROOT / f"data/sample/{split}.json")[:count]
    buffer = io.BytesIO()
    pd.DataFrame(
        [
            {
                "id": example.id,
                "title": "sample",
                "context": example.context,
                "question": example.question,
                "answers": {
                    "text": [answer.text for answer in example.answers],
                    "answer_start": [answer.start for answer in example.answers],
                },
            }
            for example in examples
        ]
    ).to_parquet(buffer)
    return buffer.getvalue()


CARD = b"""---
configs:
- config_name: plain_text
  data_files:
  - split: train
    path: plain_text/train-*
  - split: validation
    path: plain_text/validation-*
---
"""


@pytest.fixture(scope="module")
def endpoint(tiny_model: Path) -> Iterator[str]:
    model = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    old = {
        **model,
        "config.json": json.dumps(
            {**json.loads(model["config.json"]), "layer_norm_eps": 1e-7}
        ).encode(),
    }
    without = {name: data for name, data in model.items() if name != "model.safetensors"}
    data = {
        commit: {
            "README.md": CARD,
            "plain_text/train-00000-of-00001.parquet": parquet("train", count),
            "plain_text/validation-00000-of-00001.parquet": parquet("validation", count),
        }
        for commit, count in ((OLD, 5), (NEW, 8))
    }
    repositories = {
        ("models", MODEL): {OLD: {**old, "pytorch_model.bin": b"pickle"}, NEW: model},
        ("models", "someone/pickle"): {NEW: {**without, "pytorch_model.bin": b"pickle"}},
        ("datasets", DATASET): data,
    }
    with hub(repositories) as address:
        yield address


def run_stage(project: Project, stage: str, endpoint: str) -> tuple[int, str, str]:
    project.env |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(project.folder / ".hf"),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    done = project.run("python", "-m", f"stages.{stage}")
    return done.returncode, done.stdout, done.stderr


def test_a_model_comes_at_its_commit(project: Project, endpoint: str, tiny_model: Path) -> None:
    project.set(model__name=MODEL, model__revision=OLD)
    code, _, error = run_stage(project, "download_model", endpoint)
    assert code == 0, error
    base = project.folder / "models/base"
    assert json.loads((base / "config.json").read_text())["layer_norm_eps"] == 1e-7
    tensors = load_file(base / "model.safetensors")
    wanted = load_file(tiny_model / "model.safetensors")
    assert tensors.keys() == wanted.keys()
    assert all((tensors[key] == wanted[key]).all() for key in wanted)
    assert {file.name for file in base.iterdir()} == BUILT


def test_a_data_set_comes_at_its_commit(project: Project, endpoint: str) -> None:
    project.set(dataset__name=DATASET, dataset__revision=OLD, dataset__max_train_examples=4)
    code, out, error = run_stage(project, "download_dataset", endpoint)
    assert code == 0, error
    assert "train: 4 of 5 questions" in out
    train = read_examples(project.folder / "data/squad/train.jsonl")
    validation = read_examples(project.folder / "data/squad/validation.jsonl")
    sample = read_questions(ROOT / "data/sample/validation.json")
    assert len(train) == 4
    assert validation == sample[:5]


@pytest.mark.fault("from the Hub: {says}")
@pytest.mark.parametrize(
    ("stage", "values", "says"),
    [
        (
            "download_model",
            {"model__name": MODEL, "model__revision": "main"},
            f"model.revision: found 'main', which can move; pin the commit: {NEW}",
        ),
        (
            "download_model",
            {"model__name": MODEL, "model__revision": None},
            f"model.revision: found None, which can move; pin the commit: {NEW}",
        ),
        (
            "download_model",
            {"model__name": MODEL, "model__revision": "c" * 40},
            f"model.revision: {MODEL} has no revision '{'c' * 40}'",
        ),
        (
            "download_model",
            {"model__name": "someone/absent", "model__revision": NEW},
            "model.name: someone/absent: no such model on http://127.0.0.1",
        ),
        (
            "download_model",
            {"model__name": "not//a name", "model__revision": NEW},
            "model.name: not//a name: no such model",
        ),
        (
            "download_model",
            {"model__name": "someone/pickle", "model__revision": NEW},
            "model.name: someone/pickle has no model.safetensors",
        ),
        (
            "download_dataset",
            {"dataset__name": "someone/absent", "dataset__revision": NEW},
            "dataset.name: someone/absent: no such dataset",
        ),
        (
            "download_dataset",
            {"dataset__name": DATASET, "dataset__revision": "main"},
            f"dataset.revision: found 'main', which can move; pin the commit: {NEW}",
        ),
        (
            "download_dataset",
            {"dataset__name": DATASET, "dataset__revision": "c" * 40},
            "dataset.revision: someone/squad has no revision",
        ),
    ],
)
def test_what_the_hub_lacks_is_one_line(
    project: Project, endpoint: str, stage: str, values: dict[str, str], says: str
) -> None:
    project.set(**values)
    code, _, error = run_stage(project, stage, endpoint)
    assert code == 1
    assert error.startswith("error: params.yaml: ")
    assert says in error
    assert error.count("\n") == 1
    assert not (project.folder / "models/base").exists()
    assert not (project.folder / "data/squad").exists()


@pytest.mark.fault("a Hub that cannot be reached")
@pytest.mark.parametrize("stage", ["download_model", "download_dataset"])
def test_an_unreachable_hub_is_one_line(project: Project, stage: str) -> None:
    project.set(
        model__name=MODEL, model__revision=NEW, dataset__name=DATASET, dataset__revision=NEW
    )
    code, _, error = run_stage(project, stage, "http://127.0.0.1:9")
    assert code == 1
    assert "cannot reach http://127.0.0.1:9; check the network and HF_ENDPOINT" in error
    assert error.count("\n") == 1


@pytest.mark.fault(
    "a repository whose files have names outside the project", sees="nothing is written there"
)
def test_a_hostile_repository_writes_nothing_of_its_own(
    project: Project, tmp_path: Path, tiny_model: Path
) -> None:
    escape = "../../../../escaped"
    model = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    described = json.loads(model["tokenizer_config.json"])
    described["chat_template"] = [{"name": escape, "template": "stranger"}]
    hostile = {
        **model,
        "tokenizer_config.json": json.dumps(described).encode(),
        f"additional_chat_templates/{escape}.jinja": b"stranger",
        "additional_chat_templates/more.jinja": b"stranger",
        "chat_template.jinja": b"stranger",
        "tokenizer/tokenizer.json": b"stranger",
        "stranger.py": b"stranger",
        "model.safetensors/escaped": b"stranger",
        f"{escape}.safetensors": b"stranger",
        "pytorch_model.bin": b"stranger",
    }
    project.set(model__name=MODEL, model__revision=NEW)
    with hub({("models", MODEL): {NEW: hostile}}) as endpoint:
        code, _, error = run_stage(project, "download_model", endpoint)
    assert code == 0, error
    base = project.folder / "models/base"
    assert {file.name for file in base.iterdir()} == BUILT
    assert {path for path in tmp_path.rglob("*") if "escaped" in path.name} == set()
    fetched = {path.name for path in project.folder.glob(".hf/hub/*/snapshots/*/*")}
    assert fetched == BUILT


CLOSES: list[Break] = ["close"] * 6
"""The hub's client asks again five times by itself."""


@pytest.mark.fault("a download that breaks off in the middle of a file")
def test_a_download_that_breaks_off_goes_on(
    project: Project, tiny_model: Path, tmp_path: Path
) -> None:
    model = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    project.set(model__name=MODEL, model__revision=NEW)
    project.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "1"
    base = project.folder / "models/base"
    with hub({("models", MODEL): {NEW: model}}, [*CLOSES, "stall"]) as endpoint:
        code, _, error = run_stage(project, "download_model", endpoint)
        assert code == 1
        assert error.splitlines()[-1] == (
            f"error: params.yaml: model.name: {MODEL}: {endpoint} stopped answering in the middle"
            " of a download; run it again, what has come is kept"
        )
        assert not base.exists()
        # The client of the hub waits for its time-out, and asks for the rest.
        code, _, error = run_stage(project, "download_model", endpoint)
        assert code == 0, error
    wanted = load_file(tiny_model / "model.safetensors")
    tensors = load_file(base / "model.safetensors")
    assert all((tensors[key] == wanted[key]).all() for key in wanted)
