"""The model card: valid, of nothing but its sources, and true for any model and data set."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from benchmark.processes import in_peers
from bert_qa.files import hash_file
from bert_qa.model_card import make_card
from bert_qa.params import Decoding, Evaluate, Windows, read_all_params
from bert_qa.released_parameters import PARAMETERS_FILE, Released, read_released
from tests.conftest import ROOT, Project
from tests.peers import answer_of


def evaluation(project: Project) -> dict[str, Any]:
    text = (project.folder / "metrics/evaluation.json").read_text(encoding="utf-8")
    metrics: dict[str, Any] = json.loads(text)
    return metrics


def data_of(card: ModelCard) -> ModelCardData:
    """A card's metadata as the Hub's own parser reads them from its text."""
    data = ModelCard(str(card)).data
    assert isinstance(data, ModelCardData)
    return data


def test_the_package_is_the_model_with_its_card(reproduced: Project) -> None:
    model, package = (reproduced.folder / f"models/{n}" for n in ("onnx/qat", "bert-qa-int8"))
    names = {file.name for file in model.iterdir()}
    added = {"README.md", PARAMETERS_FILE}
    assert {file.name for file in package.iterdir()} == names | added
    params = read_all_params(reproduced.folder / "params.yaml")
    assert read_released(package) == Released(windows=params.windows, decoding=params.decoding)
    for name in names:
        assert (package / name).read_bytes() == (model / name).read_bytes()


def test_the_card_is_valid_and_its_figures_are_the_metrics(reproduced: Project) -> None:
    card = ModelCard.load(reproduced.folder / "models/bert-qa-int8/README.md")
    metrics = evaluation(reproduced)
    data = data_of(card)
    assert data.eval_results
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        name: metrics["qat"][name] for name in ("exact_match", "f1")
    }
    assert data.pipeline_tag == "question-answering"
    assert data.license == "cc-by-4.0"
    assert data.language == "en"
    assert data.get("datasets") is None  # the sample is not on the Hub
    for name, row in metrics.items():
        if name != "questions":
            assert f" {row['f1']:.2f} " in card.text
            assert re.search(rf" {row['size_mb']:.2f} *\|", card.text)
    assert f"On {metrics['questions']} questions" in card.text
    assert f"`{hash_file(reproduced.folder / 'models/onnx/qat/model.onnx')}`" in card.text
    params = yaml.safe_load(card.text.partition("```yaml\n")[2].partition("```")[0])
    assert params["train"]["max_steps"] == 4
    assert params["calibrate"]["examples"] == 16
    assert str(reproduced.folder) not in str(card)


def test_the_examples_in_the_card_run(reproduced: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    card = ModelCard.load(reproduced.folder / "models/bert-qa-int8/README.md")
    monkeypatch.chdir(reproduced.folder / "models")
    ours, intel, pipelines = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert answer_of(ours)["answer"] == "London"
    assert answer_of(intel) == "London"
    code = pipelines.replace("\nreader(\n", "\nanswer = reader(\n")
    assert in_peers(answer_of, code)["answer"] == "London"


def test_two_builds_are_the_same_to_the_byte(reproduced: Project, tmp_path: Path) -> None:
    params = read_all_params(reproduced.folder / "params.yaml")
    card = make_card(
        reproduced.folder / "models/onnx/qat",
        evaluation(reproduced),
        params.windows,
        params.decoding,
        params.evaluate,
    )
    card.save(tmp_path / "README.md")
    built = reproduced.folder / "models/bert-qa-int8/README.md"
    assert (tmp_path / "README.md").read_bytes() == built.read_bytes()


def exported(folder: Path, model: str, dataset: str, epochs: float, left_out: str = "") -> Path:
    """A folder with the metadata of an export, and next to nothing else."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    graph = onnx.helper.make_graph([], "empty", [], [])
    file = onnx.helper.make_model(graph)
    metadata = {
        "model": model,
        "dataset": dataset,
        "left_out": left_out,
        "finetune": json.dumps(params["finetune"]),
        "ptq": json.dumps(params["calibrate"]),
        "qat": json.dumps({**params["train"], "epochs": epochs}),
        **{f"{name}_sha256": name * 4 for name in ("train", "fp32", "ptq", "qat")},
    }
    onnx.helper.set_model_props(file, metadata)
    onnx.save_model(file, str(folder / "model.onnx"))
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    return folder


WINDOWS = Windows(max_length=384, doc_stride=128, max_question_length=64)


def test_models_and_data_sets_of_the_hub_are_linked(reproduced: Project, tmp_path: Path) -> None:
    metrics = evaluation(reproduced)
    for name in ("fp32", "ptq", "qat"):
        kinds = {"HasAns_exact_match": 61.5, "HasAns_f1": 71.25}
        metrics[name] |= {**kinds, "NoAns_exact_match": 81.0, "NoAns_f1": 82.0}
    decoding = Decoding(
        max_answer_length=30, version_2_with_negative=True, null_score_diff_threshold=0.0
    )
    folder = exported(tmp_path, "someone/bert@0a1b", "rajpurkar/squad_v2@2c3d", epochs=1)
    evaluate = Evaluate(provider="OpenVINOExecutionProvider", precision="bf16", max_f1_drop=3.0)
    card = make_card(folder, metrics, WINDOWS, decoding, evaluate)
    text = card.text.replace("\n", " ")
    assert "on `OpenVINOExecutionProvider` with BF16 where it is not INT8." in text
    data = data_of(card)
    assert data.base_model == "someone/bert"
    assert data.datasets == ["rajpurkar/squad_v2"]
    assert (data.license, data.license_name) == ("other", "as-the-base-model")
    assert data.license_link == "https://huggingface.co/someone/bert"
    assert data.eval_results
    assert {result.metric_name: result.metric_value for result in data.eval_results} == {
        "Exact match": metrics["qat"]["exact_match"],
        "F1": metrics["qat"]["f1"],
        "Exact match, answerable questions": 61.5,
        "F1, answerable questions": 71.25,
        "Exact match, unanswerable questions": 81.0,
        "F1, unanswerable questions": 82.0,
    }
    assert {result.dataset_revision for result in data.eval_results} == {"2c3d"}
    assert "[someone/bert](https://huggingface.co/someone/bert) at `0a1b`" in card.text
    assert "handle_impossible_answer=True" in card.text
    assert "Left out" not in card.text
    assert "whether or not the text holds one" not in card.text
    assert re.search(r"\| 71.25 +\| 81.00 +\| 82.00 +\|", card.text)
    table = [line for line in card.text.splitlines() if line.startswith("| ") and "FP32" in line]
    assert len({line.count("|") for line in table if "SHA" not in line and "`" not in line}) == 1


def test_a_model_of_ones_own_claims_nothing(reproduced: Project, tmp_path: Path) -> None:
    decoding = Decoding(
        max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
    )
    steps = "shift_channels, split_channels"
    folder = exported(tmp_path, "folder@None", "files@None", epochs=0, left_out=steps)
    evaluate = Evaluate(
        provider="CPUExecutionProvider", precision="fp32", language="zh", max_f1_drop=3.0
    )
    card = make_card(folder, evaluation(reproduced), WINDOWS, decoding, evaluate)
    says = "on `CPUExecutionProvider`, scored for language `zh`. The"
    assert says in card.text.replace("\n", " ")
    data = data_of(card)
    assert data.license == "unknown"
    for key in ("base_model", "base_model_relation", "datasets", "language"):
        assert data.get(key) is None
    assert "quantization-aware" not in str(card)
    assert "by calibration" in card.text.replace("\n", " ")
    assert "None" not in str(card)
    says = "do not suit the architecture: `shift_channels`, `split_channels`. The parameters:"
    assert says in card.text.replace("\n", " ")
