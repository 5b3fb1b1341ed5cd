"""The model card: what somebody who meets the INT8 model alone has to know of it.

Hugging Face's format, from three sources: the metadata inside the ONNX file says what the model was
made from and with which parameters, evaluate's metrics how it scores, params.yaml how it was asked.
Says only what those say: no clocks, no machines, and no more of a model or data set than its name
does. Knows nothing of releases and versions.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from qa.outputs import hash_file
from qa.params import Decoding, Evaluate, Windows

ENGLISH = {"minilm-squad", "sample", "rajpurkar/squad", "rajpurkar/squad_v2"}
"""Models and data sets known to be English; of others the card does not say."""

KINDS = {"": "", "HasAns_": "answerable", "NoAns_": "unanswerable"}
"""The prefixes of metrics where some questions have no answer, as `qa.evaluation` has them."""

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


OPTIMUM_INTEL = """\
import torch
from optimum.intel import OVModelForQuestionAnswering
from transformers import AutoTokenizer

folder = "bert-qa-int8"  # this one
model = OVModelForQuestionAnswering.from_pretrained(
    folder, from_onnx=True, file_name="model.onnx", trust_remote_code=False
)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
question, context = "Where do I live?", "My name is Sarah and I live in London"
inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
offsets = inputs.pop("offset_mapping")[0]
logits = model(**inputs)
# The best pair of a start and an end in the context, the end not before the start.
inside = torch.tensor([part == 1 for part in inputs.sequence_ids(0)])
spans = (inside.unsqueeze(1) & inside).triu()
scores = logits.start_logits[0].unsqueeze(1) + logits.end_logits[0]
scores = scores.masked_fill(~spans, -torch.inf)
start, end = divmod(int(scores.argmax()), len(inside))
answer = context[offsets[start][0] : offsets[end][1]]
"""
"""How Optimum Intel answers with the folder; tests/test_card.py runs it."""


def make_card(
    folder: Path,
    metrics: Mapping[str, Any],
    windows: Windows,
    decoding: Decoding,
    evaluate: Evaluate,
) -> ModelCard:
    """The card of an exported model.

    Args:
        folder: what `qa.export` wrote: `model.onnx` with its metadata, `config.json`.
        metrics: what `qa.evaluation.compare` gives for `fp32`, `ptq` and `int8`, which is this one.
        windows, decoding, evaluate: how the model was asked for these metrics.

    Returns:
        The same text for the same input; `save` writes it.
    """
    file = folder / "model.onnx"
    properties = onnx.load_model(str(file), load_external_data=False).metadata_props
    made = {entry.key: entry.value for entry in properties}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model, model_revision = _source(made["model"])
    dataset, dataset_revision = _source(made["dataset"])
    trained = json.loads(made["qat"])["epochs"] > 0
    bf16 = " with BF16 where it is not INT8" if evaluate.precision == "bf16" else ""
    scored = "" if evaluate.language == "en" else f", scored for language `{evaluate.language}`"
    where = f"`{evaluate.provider}`{bf16}{scored}"
    data = ModelCardData(
        language="en" if ENGLISH & {model, dataset} else None,
        **_licence(model),
        library_name="optimum",
        pipeline_tag="question-answering",
        base_model=_hub_model(model),
        base_model_relation="quantized" if _hub_model(model) else None,
        datasets=[dataset] if _on_hub(dataset) else None,
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
                dataset_type=dataset,
                dataset_name=_dataset_name(dataset),
                dataset_revision=dataset_revision,
                dataset_split="validation",
                metric_type=kind,
                metric_name=f"{name}, {KINDS[prefix]} questions" if prefix else name,
                metric_value=metrics["int8"][prefix + kind],
            )
            for prefix in KINDS
            for kind, name in (("exact_match", "Exact match"), ("f1", "F1"))
            if prefix + kind in metrics["int8"]
        ],
    )
    sections = [
        _introduction(metrics, _model_text(model, model_revision), trained),
        _use(windows, decoding),
        _scores(metrics, _dataset_text(dataset, dataset_revision), where, trained),
        _recipe(made, windows, decoding),
        _provenance(made, file),
        _limits(model, decoding),
    ]
    return ModelCard(f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n" + "\n\n".join(sections))


def _source(text: str) -> tuple[str, str | None]:
    """Name and revision of what `qa.export.describe` was given as name@revision."""
    name, _, revision = text.rpartition("@")
    return name, None if revision == "None" else revision


def _on_hub(name: str) -> bool:
    return name not in {"minilm-squad", "folder", "sample", "files"}


def _hub_model(name: str) -> str | None:
    """The id on the Hugging Face Hub of what a model was made from, where there is one."""
    if name == "minilm-squad":
        return "sentence-transformers/all-MiniLM-L6-v2"
    return name if _on_hub(name) else None


def _licence(model: str) -> dict[str, Any]:
    if model == "minilm-squad":
        return {"license": "cc-by-4.0"}
    if _on_hub(model):
        return {
            "license": "other",
            "license_name": "as-the-base-model",
            "license_link": f"https://huggingface.co/{model}",
        }
    return {"license": "unknown"}


def _model_text(name: str, revision: str | None) -> str:
    if name == "minilm-squad":
        return (
            "`minilm-squad` (the encoder all-MiniLM-L6-v2 with an adapter trained on SQuADShifts)"
        )
    if name == "folder":
        return "a checkpoint of its maker's own, named below by its SHA-256"
    return f"[{name}](https://huggingface.co/{name}) at `{revision}`"


def _dataset_name(name: str) -> str:
    return {"sample": "its project's sample", "files": "questions of its maker's own"}.get(
        name, name
    )


def _dataset_text(name: str, revision: str | None) -> str:
    if _on_hub(name):
        return f"[{name}](https://huggingface.co/datasets/{name}) at `{revision}`"
    return _dataset_name(name)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _introduction(metrics: Mapping[str, Any], model: str, trained: bool) -> str:
    fp32, int8 = metrics["fp32"]["size_mb"], metrics["int8"]["size_mb"]
    how = "quantization-aware training" if trained else "calibration"
    return "# bert-qa-int8\n\n" + _paragraph(
        "Extractive question answering: from a question and a text, the span of the text that"
        f" answers it. Made from {model} by {how} with NNCF; an ONNX file with INT8 weights and"
        f" activations, {int8:.1f} MB in place of {fp32:.1f} in FP32."
    )


def _use(windows: Windows, decoding: Decoding) -> str:
    arguments = {
        "max_seq_len": windows.max_length,
        "doc_stride": windows.doc_stride,
        "max_question_len": windows.max_question_length,
        "max_answer_len": decoding.max_answer_length,
    }
    if decoding.version_2_with_negative:
        arguments["handle_impossible_answer"] = True
    lines = "".join(f"    {name}={value},\n" for name, value in arguments.items())
    code = f"""\
from optimum.onnxruntime import ORTModelForQuestionAnswering
from transformers import AutoTokenizer, pipeline

folder = "bert-qa-int8"  # this one
model = ORTModelForQuestionAnswering.from_pretrained(
    folder, provider="OpenVINOExecutionProvider", trust_remote_code=False
)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
reader = pipeline(
    "question-answering", model=model, tokenizer=tokenizer, trust_remote_code=False
)
reader(
    question="Where do I live?",
    context="My name is Sarah and I live in London",
{lines})
"""
    intro = _paragraph(
        "With `optimum-intel` and `openvino` installed, on any transformers that Optimum Intel"
        " takes:"
    )
    pipeline = _paragraph(
        "With `transformers<4.58`, `optimum-onnx` and `onnxruntime-openvino` (plain `onnxruntime`"
        " has the provider `CPUExecutionProvider`), by the pipeline that left transformers in 5.3:"
    )
    project = _paragraph(
        "Or, for a CSV with the columns Context and Question, in a clone of the project that made"
        " it, checked out at the tag of this version:"
    )
    command = "python stages/infer.py --model bert-qa-int8"
    return (
        f"## Use\n\n{intro}\n\n```python\n{OPTIMUM_INTEL}```\n\n{pipeline}\n\n```python\n{code}```"
        f"\n\n{project}\n\n```console\n$ {command}\n```"
    )


def _scores(metrics: Mapping[str, Any], dataset: str, where: str, trained: bool) -> str:
    labels = {
        "fp32": "FP32",
        "ptq": "INT8 after calibration (PTQ)",
        "int8": "**INT8 after training (QAT), this model**" if trained else "**INT8, this model**",
    }
    prefixes = [prefix for prefix in KINDS if f"{prefix}f1" in metrics["int8"]]
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
    table = "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)
    )
    intro = _paragraph(
        f"On {metrics['questions']} questions of the validation set of {dataset}, in percent,"
        f" answered by the project's own `stages/evaluate.py` on {where}. The intervals are"
        " those of a paired bootstrap over the questions: one that holds 0 is no difference that"
        " so many questions can show."
    )
    return f"## Scores\n\n{intro}\n\n{table}"


def _difference(row: Mapping[str, float], name: str) -> str:
    if f"{name}_difference" not in row:
        return ""
    low, high = row[f"{name}_difference_low"], row[f"{name}_difference_high"]
    return f"{row[f'{name}_difference']:+.2f} ({low:+.2f} to {high:+.2f})"


def _recipe(made: Mapping[str, str], windows: Windows, decoding: Decoding) -> str:
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
    intro = _paragraph(
        "In FP32, fine-tuning (`finetune`; `epochs: auto` leaves a model that already answers"
        " questions as it is); INT8 quantizers with the ranges of windows of the training set"
        " (`calibrate`); training with the quantizers in place (`train`; none with `epochs: 0`)"
        " towards the FP32 model's logits, as much as `distillation_weight` says, and the labels."
        f"{_left_out(made)} The parameters:"
    )
    text = yaml.safe_dump(shown, sort_keys=False)
    return f"## How it was made\n\n{intro}\n\n```yaml\n{text}```"


def _left_out(made: Mapping[str, str]) -> str:
    """Which steps of calibration did not suit the model, if any."""
    if not made["left_out"]:
        return ""
    steps = ", ".join(f"`{step}`" for step in made["left_out"].split(", "))
    return f" Left out of `calibrate`, as they do not suit the architecture: {steps}."


def _provenance(made: Mapping[str, str], file: Path) -> str:
    hashes = {file.name: hash_file(file), **{PROVENANCE[key]: made[key] for key in PROVENANCE}}
    rows = "\n".join(f"| {name} | `{value}` |" for name, value in hashes.items())
    return f"## Provenance\n\n| | SHA-256 |\n| --- | --- |\n{rows}"


def _limits(model: str, decoding: Decoding) -> str:
    lines = ["It copies a span of the text: it does not reason, count or rephrase."]
    if not decoding.version_2_with_negative:
        lines.append("It gives an answer whether or not the text holds one.")
    if model == "minilm-squad":
        lines.append(
            "English, lower-cased, and a shallow reader: to try things with, not to rely on. The"
            " encoder's licence is Apache-2.0, the adapter's CC BY 4.0, as its training data's."
        )
    elif _on_hub(model):
        lines.append("Its licence is that of the model it was made from; see its page.")
    else:
        lines.append(
            "Its licence is that of the checkpoint it was made from, which its maker knows."
        )
    return "## Limits\n\n" + _paragraph(" ".join(lines)) + "\n"
