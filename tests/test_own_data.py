"""A user's own model and data: a folder without a trained head, SQuAD 2.0 files."""

from __future__ import annotations

import itertools
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from qa.checks import check_windows
from qa.errors import UserError
from qa.params import Windows
from tests.conftest import ROOT, Project


@pytest.fixture
def encoder_without_head(tmp_path: Path, tiny_model: Path) -> Path:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith("qa_outputs")}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def squad_v2(tmp_path: Path) -> dict[str, Path]:
    """The sample as SQuAD 2.0: the first question of each passage also asked of the next one."""
    files = {}
    for split in ("train", "validation"):
        data = json.loads((ROOT / f"data/sample/{split}.json").read_text("utf-8"))["data"][:12]
        for article, following in itertools.pairwise(data):
            qas = article["paragraphs"][0]["qas"][0]
            following["paragraphs"][0]["qas"].append(
                {**qas, "id": f"{qas['id']}-elsewhere", "answers": [], "is_impossible": True}
            )
        files[split] = tmp_path / f"{split}-v2.json"
        files[split].write_text(json.dumps({"version": "v2.0", "data": data}), "utf-8")
    return files


def test_own_model_and_data_go_all_the_way(
    project: Project, encoder_without_head: Path, squad_v2: dict[str, Path]
) -> None:
    values: dict[str, Any] = {
        "dataset__name": "files",
        "dataset__train_file": str(squad_v2["train"]),
        "dataset__validation_file": str(squad_v2["validation"]),
        "model__name": "folder",
        "model__folder": str(encoder_without_head),
        "finetune__batch_size": 32,
        "finetune__precision": "fp32",
        "train__max_steps": 2,
        "train__precision": "fp32",
        "calibrate__examples": 8,
        "calibrate__preset": "performance",
        "calibrate__overflow_fix": False,
        "calibrate__quantize_attention": True,
        "calibrate__smooth_quant_alpha": -1,
        "train__distillation_weight": 0.0,
        "evaluate__max_f1_drop": 100.0,
    }
    project.set(**values, decoding__version_2_with_negative=True)
    output = project.check("dvc", "repro")
    assert "epochs: 2 (the head is new)" in output
    assert "same answers" in output
    metrics = json.loads((project.folder / "metrics/evaluation.json").read_text("utf-8"))
    assert {"HasAns_f1", "NoAns_f1", "f1"} <= metrics["int8"].keys()
    loss = project.folder / "metrics/finetune/plots/metrics/loss.tsv"
    assert loss.read_text("utf-8").startswith("step\tloss\n1\t")


@pytest.mark.parametrize(
    ("stage", "values", "says"),
    [
        (
            "download_dataset",
            {"dataset__train_file": "mine.json"},
            "dataset.name: found 'sample' with files of your own; set dataset.name=files",
        ),
        (
            "download_dataset",
            {"dataset__name": "files", "dataset__train_file": "mine.json"},
            "mine.json: no such file",
        ),
        (
            "download_model",
            {"model__folder": "mine"},
            "model.name: found 'minilm-squad' with a folder of your own; set model.name=folder",
        ),
        (
            "download_model",
            {"model__name": "folder", "model__folder": "mine"},
            "mine: no config.json",
        ),
    ],
)
def test_a_mistake_is_one_line(
    project: Project, stage: str, values: dict[str, str], says: str
) -> None:
    project.set(**values)
    done = project.run("python", f"stages/{stage}.py")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"model.safetensors": b"version https://git-lfs"}, "model.safetensors is not safetensors"),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, "only safetensors are loaded"),
        ({"config.json": b'{"model_type": "vit"}'}, "model_type vit is not a BERT-like encoder"),
        ({"config.json": b'{"model_type": "gpt2"}'}, "model_type gpt2 is not a BERT-like encoder"),
        ({"config.json": b"{"}, "config.json: "),
        ({"tokenizer.json": b"{"}, "no usable tokenizer"),
        ({"tokenizer.json": None, "vocab.txt": None, "tokenizer_config.json": None}, "tokenizer"),
    ],
)
def test_a_broken_checkpoint_is_one_line(
    project: Project, tmp_path: Path, tiny_model: Path, broken: dict[str, Any], says: str
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    for name, content in broken.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    project.set(model__name="folder", model__folder=str(folder))
    done = project.run("python", "stages/download_model.py")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {folder}: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project.folder / "models/base").exists()


@pytest.mark.parametrize(
    ("config", "values", "says"),
    [
        # Of 1,000 tokens, 512 have a position; the tokenizer names no limit.
        ({}, {"windows__max_length": 1000}, "params.yaml: windows.max_length: found 1000; this"),
        ({"hidden_act": "gelux"}, {}, "not a question-answering model (KeyError: 'gelux')"),
        # A linear layer of 64 inputs and not 128, which is seen when the weights are loaded.
        ({"intermediate_size": 64}, {}, "models/base: not a question-answering model (RuntimeErro"),
    ],
)
def test_a_model_that_cannot_run_is_one_line(
    project: Project,
    tmp_path: Path,
    tiny_model: Path,
    config: dict[str, Any],
    values: dict[str, Any],
    says: str,
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    _change(folder / "config.json", config)
    _change(folder / "tokenizer_config.json", {"model_max_length": None})
    project.set(model__name="folder", model__folder=str(folder), **values)
    done = project.run("python", "stages/download_model.py")
    assert done.returncode == 0, done.stderr
    done = project.run("python", "stages/finetune.py")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project.folder / "models/fp32").exists()


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (BertConfig, {}, None),
        (RobertaConfig, {"max_position_embeddings": 66}, None),  # which counts from 2
        (BertConfig, {"max_position_embeddings": 63}, "found 60; this model does not read the 64"),
        (RobertaConfig, {"max_position_embeddings": 65}, "max_length: found 60; this model"),
        (BertConfig, {"type_vocab_size": 1}, "the model does not run on its tokenizer's tokens"),
        (BertConfig, {"vocab_size": 9}, "the model does not run on its tokenizer's tokens"),
    ],
)
def test_a_model_is_tried_on_the_longest_window(
    tokenizer: Any, kind: type[PretrainedConfig], changes: dict[str, int], says: str | None
) -> None:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": tokenizer.backend.get_vocab_size(),
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
    }
    model = AutoModelForQuestionAnswering.from_config(kind(**sizes | changes)).eval()
    windows = Windows(max_length=60, doc_stride=8, max_question_length=16)
    unlimited = replace(tokenizer, model_max_length=10**30)
    with nullcontext() if says is None else pytest.raises(UserError, match=says):
        check_windows(model, unlimited, windows)


def _change(file: Path, changes: dict[str, Any]) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(file.read_text("utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")
