"""The model card: what somebody who meets the INT8 model alone has to know of it.

Hugging Face's format, from model_card.md.jinja and three sources: the metadata inside the ONNX file
say what the model was made from and with which parameters, evaluate's metrics how it scores,
params.yaml how it was asked. Contains nothing else: no dates, no host names, no claims about the
base model or the data. Knows nothing of releases and versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tabulate import tabulate

from bert_qa.files import hash_file
from bert_qa.params import Decoding, Evaluate, Windows

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")

KINDS = {"": "", "HasAns_": "answerable", "NoAns_": "unanswerable"}
"""The prefixes of metrics where some questions have no answer, as `bert_qa.evaluation` has them."""

SECTIONS = {"finetune": "finetune", "calibrate": "ptq", "train": "qat"}
"""By section of params.yaml, the name under which the ONNX file has it."""

PROVENANCE = {
    "fp32_sha256": "FP32 weights",
    "ptq_sha256": "weights after calibration",
    "qat_sha256": "weights after training",
    "train_sha256": "training questions",
}
BOOKKEEPING = {"save_steps", "logging_steps"}
"""Parameters that leave the model as it is."""


@dataclass(frozen=True)
class Source:
    """A model or a data set that a card speaks of.

    Attributes:
        name: in tables of results.
        text: in a sentence.
        english: whether it is known to be English.
        hub_id: on the Hugging Face Hub, where it is there.
        licence: the card's keys of the licence.
        limits: what a user of it must know.
        revision: on the Hub.
    """

    name: str
    text: str
    english: bool = False
    hub_id: str | None = None
    licence: tuple[tuple[str, str], ...] = (("license", "unknown"),)
    limits: str = ""
    revision: str | None = None


SOURCES = {
    "minilm-squad": Source(
        "minilm-squad",
        "`minilm-squad` (the encoder all-MiniLM-L6-v2 with an adapter trained on SQuADShifts)",
        english=True,
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        licence=(("license", "cc-by-4.0"),),
        limits="English, lower-cased, and a shallow reader: to try things with, not to rely on. The"
        " encoder's licence is Apache-2.0, the adapter's CC BY 4.0, as its training data's.",
    ),
    "folder": Source(
        "a checkpoint of its maker's own",
        "a checkpoint of its maker's own, named below by its SHA-256",
        limits="It has the licence of the checkpoint that it was made from: ask its maker.",
    ),
    "sample": Source("its project's sample", "its project's sample", english=True),
    "files": Source("questions of its maker's own", "questions of its maker's own"),
}
"""By name in params.yaml, those that are not on the Hub."""

ENGLISH_DATA = {"rajpurkar/squad", "rajpurkar/squad_v2"}


def make_card(
    folder: Path,
    metrics: Mapping[str, Any],
    windows: Windows,
    decoding: Decoding,
    evaluate: Evaluate,
) -> ModelCard:
    """The card of an exported model.

    Args:
        folder: what `bert_qa.export` wrote: `model.onnx` with its metadata, `config.json`.
        metrics: what `bert_qa.evaluation.compare` gives for `fp32`, `ptq` and `qat`: this model.
        windows, decoding, evaluate: how the model was asked for these metrics.

    Returns:
        The same text for the same input; `save` writes it.
    """
    file = folder / "model.onnx"
    properties = onnx.load_model(str(file), load_external_data=False).metadata_props
    made = {entry.key: entry.value for entry in properties}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model, dataset = _source(made["model"], "models"), _source(made["dataset"], "datasets")
    trained = json.loads(made["qat"])["epochs"] > 0
    data = ModelCardData(
        language="en" if model.english or dataset.english else None,
        **dict[str, Any](model.licence),
        library_name="optimum",
        pipeline_tag="question-answering",
        base_model=model.hub_id,
        base_model_relation="quantized" if model.hub_id else None,
        datasets=[dataset.hub_id] if dataset.hub_id else None,
        metrics=["exact_match", "f1"],
        tags=[
            "onnx",
            config["model_type"],
            "int8",
            "nncf",
            *(["quantization-aware-training"] if trained else []),
        ],
        model_name="bert-qa-int8",
        eval_results=[
            EvalResult(
                task_type="question-answering",
                dataset_type=made["dataset"].rpartition("@")[0],
                dataset_name=dataset.name,
                dataset_revision=dataset.revision,
                dataset_split="validation",
                metric_type=kind,
                metric_name=f"{name}, {KINDS[prefix]} questions" if prefix else name,
                metric_value=metrics["qat"][prefix + kind],
            )
            for prefix in KINDS
            for kind, name in (("exact_match", "Exact match"), ("f1", "F1"))
            if prefix + kind in metrics["qat"]
        ],
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model=model,
        dataset=dataset,
        trained=trained,
        metrics=metrics,
        windows=windows,
        decoding=decoding,
        evaluate=evaluate,
        scores=_scores(metrics, trained),
        left_out=[f"`{step}`" for step in made["left_out"].split(", ") if step],
        parameters=_parameters(made, windows, decoding),
        hashes=_hashes(made, file),
    )
    return card


def _source(text: str, kind: Literal["models", "datasets"]) -> Source:
    """What `bert_qa.export.describe` was given as name@revision."""
    name, _, revision = text.rpartition("@")
    if name in SOURCES:
        return SOURCES[name]
    page = f"https://huggingface.co/{'datasets/' if kind == 'datasets' else ''}{name}"
    licence = {"license": "other", "license_name": "as-the-base-model", "license_link": page}
    return Source(
        name,
        f"[{name}]({page}) at `{revision}`",
        english=name in ENGLISH_DATA,
        hub_id=name,
        licence=tuple(licence.items()),
        limits="It has the licence of the model that it was made from: see its page.",
        revision=revision,
    )


def _scores(metrics: Mapping[str, Any], trained: bool) -> str:
    labels = {
        "fp32": "FP32",
        "ptq": "INT8 after calibration (PTQ)",
        "qat": "**INT8 after training (QAT), this model**" if trained else "**INT8, this model**",
    }
    prefixes = [prefix for prefix in KINDS if f"{prefix}f1" in metrics["qat"]]
    header = ["", "exact match", "- FP32 (95% interval)", "F1", "- FP32 (95% interval)"]
    header += [
        f"{name}, {KINDS[prefix]}" for prefix in prefixes[1:] for name in ("exact match", "F1")
    ]
    header += ["same answers as FP32", "size (MB)"]
    rows = []
    for key, label in labels.items():
        row = metrics[key]
        cells = [label]
        for name in ("exact_match", "f1"):
            cells += [f"{row[name]:.2f}", _difference(row, name)]
        cells += [
            f"{row[prefix + name]:.2f}" for prefix in prefixes[1:] for name in ("exact_match", "f1")
        ]
        same = f"{row['same_answers']:.1f}%" if "same_answers" in row else ""
        rows.append([*cells, same, f"{row['size_mb']:.2f}"])
    return _table(rows, header)


def _difference(row: Mapping[str, float], name: str) -> str:
    if f"{name}_difference" not in row:
        return ""
    low, high = row[f"{name}_difference_low"], row[f"{name}_difference_high"]
    return f"{row[f'{name}_difference']:+.2f} ({low:+.2f} to {high:+.2f})"


def _parameters(made: Mapping[str, str], windows: Windows, decoding: Decoding) -> str:
    """The sections of params.yaml that the model was made with, as YAML."""
    params = {
        "windows": windows.model_dump(),
        "decoding": decoding.model_dump(),
        **{section: json.loads(made[name]) for section, name in SECTIONS.items()},
    }
    for name in ("finetune", "train"):
        if params[name]["epochs"] == 0:
            params[name] = {"epochs": 0}
    shown = {
        section: {key: value for key, value in values.items() if key not in BOOKKEEPING}
        for section, values in params.items()
    }
    return str(yaml.safe_dump(shown, sort_keys=False))


def _hashes(made: Mapping[str, str], file: Path) -> str:
    hashes = {file.name: hash_file(file), **{PROVENANCE[key]: made[key] for key in PROVENANCE}}
    return _table([[name, f"`{value}`"] for name, value in hashes.items()], ["", "SHA-256"])


def _table(rows: list[list[str]], header: list[str]) -> str:
    table: str = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    return table
