"""A user's own model and data: a folder without a trained head, SQuAD 2.0 files."""

from __future__ import annotations

import itertools
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from bert_qa.errors import UserError
from bert_qa.param_checks import check_machine
from bert_qa.params import Windows, read_all_params
from bert_qa.probe import check_windows
from bert_qa.squad import read_examples
from tests.conftest import ROOT, Project, ran


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
    assert {"HasAns_f1", "NoAns_f1", "f1"} <= metrics["qat"].keys()
    loss = project.folder / "metrics/finetune/plots/metrics/loss.tsv"
    assert loss.read_text("utf-8").startswith("step\tloss\n1\t")


@pytest.mark.fault("{says}")
@pytest.mark.parametrize(
    ("stage", "values", "says"),
    [
        (
            "check_params",
            {"dataset__train_file": "mine.json"},
            "dataset.name: found 'sample' with files of your own; set dataset.name=files",
        ),
        (
            "download_dataset",
            {"dataset__name": "files", "dataset__train_file": "mine.json"},
            "mine.json: no such file",
        ),
        (
            "check_params",
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
    done = project.stage(stage)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.fault("a checkpoint: {says}")
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"model.safetensors": b"version https://git-lfs"}, "model.safetensors is not safetensors"),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, "only safetensors are loaded"),
        ({"config.json": b'{"model_type": "vit"}'}, "model_type 'vit' is not a BERT-like encoder"),
        (
            {"config.json": b'{"model_type": "gpt2"}'},
            "model_type 'gpt2' is not a BERT-like encoder",
        ),
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
    done = project.stage("download_model")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {folder}: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project.folder / "models/base").exists()


@pytest.mark.fault("a model that cannot run: {says}")
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hidden_act": "gelux"}, "not a question-answering model (KeyError: 'gelux')"),
        # A linear layer of 64 inputs and not 128, which is seen when the weights are loaded.
        (
            {"intermediate_size": 64},
            "bert.encoder.layer.0.intermediate.dense.bias has the shape (128,), and in the model",
        ),
    ],
)
def test_a_model_that_cannot_run_is_one_line(
    project: Project, tmp_path: Path, tiny_model: Path, config: dict[str, Any], says: str
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    _change(folder / "config.json", config)
    project.set(model__name="folder", model__folder=str(folder))
    done = project.stage("download_model")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {folder}: {says}")
    assert done.stderr.count("\n") == 1


@pytest.mark.fault("a wrong parameter of a late stage")
def test_a_wrong_parameter_is_refused_before_any_output_is_removed(
    project: Project, tmp_path: Path, tiny_model: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_model, folder)
    # Of 1,000 tokens, 512 have a position; the tokenizer names no limit.
    _change(folder / "tokenizer_config.json", {"model_max_length": None})
    project.set(
        dataset__max_train_examples=8,
        dataset__max_validation_examples=8,
        model__name="folder",
        model__folder=str(folder),
    )
    project.check("dvc", "repro", "finetune")
    model = project.folder / "models/fp32/model.safetensors"
    logs = project.folder / "metrics/finetune/metrics.json"
    right = (project.folder / "params.yaml").read_bytes()
    for values, says, stages in (
        (
            {"windows__max_length": 1000},
            "windows.max_length: found 1000; this model does not read",
            ["check_params", "probe"],
        ),
        ({"train__batch_size": 0}, "train.batch_size: found 0", ["check_params"]),
    ):
        project.set(**values)
        done = project.run("dvc", "repro")
        assert done.returncode != 0
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert errors[0].startswith(f"error: params.yaml: {says}")
        assert "Traceback" not in done.stderr
        assert ran(done.stdout) == stages
        assert model.is_file()
        assert logs.is_file()
        (project.folder / "params.yaml").write_bytes(right)
    # Another parameter of a later stage is checked, and runs no stage that does not read it.
    project.set(evaluate__max_f1_drop=4.0)
    assert ran(project.check("dvc", "repro", "finetune")) == ["check_params"]


def test_the_processor_multiplies_in_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_all_params(ROOT / "params.yaml")
    monkeypatch.setattr("bert_qa.param_checks.has_bf16", lambda: False)
    check_machine(params)
    for section in ("infer", "evaluate"):
        changed = getattr(params, section).model_copy(update={"precision": "bf16"})
        with pytest.raises(
            UserError, match=rf"{section}\.precision: found 'bf16'.* lacks; set fp32"
        ):
            check_machine(params.model_copy(update={section: changed}))
    many = params.infer.model_copy(update={"sessions": 99})
    with pytest.raises(UserError, match=r"params.yaml: infer.sessions: found 99"):
        check_machine(params.model_copy(update={"infer": many}))


@pytest.mark.fault("a model that cannot be trained as it is asked for: {says}")
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"finetune__epochs": 0}, "finetune.epochs: found 0, but the model's"),
        ({"windows__max_length": 1000}, "windows.max_length: found 1000; this model reads at most"),
    ],
)
def test_what_the_model_cannot_do_is_found_by_the_probe(
    project: Project, encoder_without_head: Path, values: dict[str, Any], says: str
) -> None:
    shutil.copytree(encoder_without_head, project.folder / "models/base")
    project.set(**values)
    done = project.stage("probe")
    assert done.returncode == 1, done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: params.yaml: {says}")
    assert "Traceback" not in done.stderr
    assert not (project.folder / "models/windows.json").exists()


CONTEXT = "Ada lived in London."
ANSWERED: dict[str, Any] = {
    "id": "a",
    "question": "Where?",
    "answers": [{"text": "London", "answer_start": 13}],
}
MISPLACED: dict[str, Any] = {
    "id": "b",
    "question": "Where?",
    "answers": [{"text": "London", "answer_start": 12}],
}
UNANSWERED: dict[str, Any] = {"id": "c", "question": "Where?", "answers": [], "is_impossible": True}


@pytest.mark.parametrize(
    ("train", "validation", "values", "says"),
    [
        (
            [ANSWERED, MISPLACED],
            [ANSWERED],
            {},
            "train.json: question b: answer 'London' is not at answer_start 12, where the context"
            " has ' Londo'; fix it, or leave such questions out: set dataset.on_bad_answer=drop",
        ),
        (
            [ANSWERED, UNANSWERED],
            [ANSWERED],
            {},
            "train.json: 1 of 2 questions have no answer; set",
        ),
        (
            [ANSWERED],
            [UNANSWERED],
            {},
            "validation.json: 1 of 1 questions have no answer; set decod",
        ),
        ([ANSWERED], [ANSWERED], {}, "validation.json: the same questions as in "),
        ([MISPLACED], [ANSWERED], {"dataset__on_bad_answer": "drop"}, "train.json: question b: "),
    ],
)
def test_bad_data_is_refused_when_it_comes_in(
    project: Project,
    train: list[dict[str, Any]],
    validation: list[dict[str, Any]],
    values: dict[str, Any],
    says: str,
) -> None:
    done = _download_dataset(project, train, validation, **values)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project.folder / "data/squad").exists()


def test_bad_answers_are_left_out_and_listed_on_request(project: Project) -> None:
    values = {"dataset__on_bad_answer": "drop", "decoding__version_2_with_negative": True}
    train, validation = [ANSWERED, MISPLACED, UNANSWERED], [ANSWERED]
    done = _download_dataset(project, train, validation, **values)
    assert done.returncode == 0, done.stderr
    assert "train: 2 of 2 questions\ntrain: 1 left out: data/squad/dropped.jsonl" in done.stdout
    assert "validation: 1 left out" not in done.stdout
    folder = project.folder / "data/squad"
    assert [example.id for example in read_examples(folder / "train.jsonl")] == ["a", "c"]
    (dropped,) = map(json.loads, (folder / "dropped.jsonl").read_text("utf-8").splitlines())
    assert (dropped["split"], dropped["question"]) == ("train", "b")
    assert "is not at answer_start 12" in dropped["reason"]
    done = _download_dataset(project, [ANSWERED, UNANSWERED], [ANSWERED], **values)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["train.jsonl", "validation.jsonl"]


def _download_dataset(
    project: Project, train: list[dict[str, Any]], validation: list[dict[str, Any]], **values: Any
) -> CompletedProcess[str]:
    for split, qas in (("train", train), ("validation", validation)):
        data = [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]
        (project.folder / f"{split}.json").write_text(json.dumps({"data": data}), "utf-8")
    project.set(
        dataset__name="files",
        dataset__train_file="train.json",
        dataset__validation_file="validation.json",
        **values,
    )
    return project.stage("download_dataset")


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


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
    sizes = SIZES | {"max_position_embeddings": 64}
    model = AutoModelForQuestionAnswering.from_config(
        kind(**sizes | changes), trust_remote_code=False
    ).eval()
    windows = Windows(max_length=60, doc_stride=8, max_question_length=16)
    unlimited = replace(tokenizer, model_max_length=10**30)
    with nullcontext() if says is None else pytest.raises(UserError, match=says):
        check_windows(model, unlimited, windows)


def _change(file: Path, changes: dict[str, Any]) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(file.read_text("utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")
