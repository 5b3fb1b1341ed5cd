"""Encoders other than BERT, tiny and random; and a page of what the pipeline does with each.

python -m tests.encoders [NAME ...]

Takes a model of every architecture that transformers has for questions and for masks through
`dvc repro` in a copy of the project, and writes docs/encoders.md; with names, prints the rows of
these alone. Random weights say nothing of accuracy: each step is compared with the one before.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    AutoModelForQuestionAnswering,
    PretrainedConfig,
    PreTrainedModel,
)

from bert_qa.adapter import encoder_folder
from bert_qa.checkpoints import save_checkpoint
from bert_qa.intake import build_tokenizer
from tests.conftest import ROOT, Project

PAGE = ROOT / "docs/encoders.md"

SMALL = {
    "hidden_size": 128,
    "d_model": 128,
    "dim": 128,
    "emb_dim": 128,
    "embedding_size": 64,
    "num_hidden_layers": 3,
    "n_layers": 3,
    "num_attention_heads": 4,
    "n_heads": 4,
    "n_head": 4,
    "d_head": 32,
    "intermediate_size": 256,
    "hidden_dim": 256,
    "d_inner": 256,
    "axial_pos_shape": [8, 20],
    "axial_pos_embds_dim": [64, 64],
    "attention_window": 16,
    "block_sizes": [1, 1, 1],
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {  # as version 3
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "modernbert": {"local_attention": 16},
    "squeezebert": {"embedding_size": 128},
}
"""What else a config needs to be as people have them."""

SPREAD = {"mobilebert": 1.0}
"""Of random weights, times the square root of a layer's inputs. Else 1.7, so that logits depend on
every token; MobileBERT's normalization does not normalize, and its numbers would grow too far."""

FIRST = (
    "bert",
    "roberta",
    "distilbert",
    "deberta-v2",
    "xlm-roberta",
    "electra",
    "albert",
    "modernbert",
)
"""The most used of the Hub."""


def architectures() -> list[str]:
    """Every model_type that download_model does not refuse at once, the most used first."""
    found = [
        config.model_type
        for config in MODEL_FOR_QUESTION_ANSWERING_MAPPING
        if config in MODEL_FOR_MASKED_LM_MAPPING and not config().is_encoder_decoder
    ]
    return [*FIRST, *sorted({*found} - {*FIRST})]


def tiny_config(kind: str, vocabulary: int, positions: int = 160) -> PretrainedConfig:
    """The config of a tiny model; `vocabulary` is of BERT's tokenizer, with its special tokens."""
    config_class: type[PretrainedConfig] = CONFIG_MAPPING[kind]
    known = {*inspect.signature(config_class).parameters, *config_class.attribute_map}
    values = SMALL | {
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "pad_token_id": 0,
        "cls_token_id": 101,
        "bos_token_id": 101,
        "sep_token_id": 102,
        "eos_token_id": 102,
    }
    values |= OTHERWISE.get(kind, {})
    config = config_class(**{key: value for key, value in values.items() if key in known})
    for key in config.to_dict():
        if key.endswith(("dropout", "dropout_prob")) and getattr(config, key):
            setattr(config, key, 0.0)
    return config


def tiny(kind: str, vocabulary: int, positions: int = 160) -> PreTrainedModel:
    """A tiny model, its weights so large that logits depend on every token."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForQuestionAnswering.from_config(
        tiny_config(kind, vocabulary, positions),
        trust_remote_code=False,
        attn_implementation="eager",
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=SPREAD.get(kind, 1.7) / parameter[0].numel() ** 0.5)
    return model.eval()


PARAMS: dict[str, Any] = {
    "model__name": "folder",
    "dataset__max_train_examples": 24,
    "dataset__max_validation_examples": 24,
    "windows__max_length": 96,
    "windows__doc_stride": 16,
    "windows__max_question_length": 32,
    "calibrate__examples": 12,
    "train__max_steps": 2,
    "train__batch_size": 4,
    "evaluate__max_f1_drop": 100.0,
}


@dataclass(frozen=True)
class Row:
    """What became of an architecture: `refused`, or the rest.

    Attributes:
        folder: the project, reproduced.
        differences: from torch, of the ONNX models FP32, PTQ and QAT; then of QAT on the provider.
        left_out: steps of the recipe.
    """

    kind: str
    folder: Path
    refused: str = ""
    differences: tuple[float, ...] = ()
    left_out: tuple[str, ...] = ()


def reproduce(kind: str, root: Path) -> Row:
    """Take a tiny model through every stage of a copy of the project."""
    root = root / kind
    model, tokenizer = root / "model", root / "tokenizer"
    for folder in (root / "project", model, tokenizer):
        folder.mkdir(parents=True)
    project = Project(root / "project")
    project.env["OMP_NUM_THREADS"] = "1"  # two of these run at a time
    build_tokenizer(encoder_folder(), tokenizer, kind)
    try:
        save_checkpoint(model, tiny(kind, 30522), tokenizer)
    except Exception as error:
        return Row(kind, project.folder, f"{type(error).__name__}: {error}")
    project.set(**PARAMS, model__folder=str(model))
    done = project.run("dvc", "repro")
    said = done.stdout + done.stderr
    (root / "log").write_text(said, encoding="utf-8")
    if done.returncode:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        return Row(kind, project.folder, errors[-1] if errors else f"a traceback: {root / 'log'}")
    left_out = re.findall(r"calibrate\.(\w+): left out", said)
    found = re.findall(r"differs from torch by (\S+) of", said)
    return Row(kind, project.folder, "", (*map(float, found),), (*left_out,))


def measure(row: Row) -> tuple[float, float]:
    """INT8's difference from torch on the provider, and a QAT step's time by NNCF's operators'."""
    from benchmark.training_step import step_seconds
    from bert_qa.checkpoints import torch_forward
    from bert_qa.logits import relative_rms, run_windows
    from bert_qa.quantization.nncf_model import load_quantized
    from bert_qa.sessions import onnx_forward
    from bert_qa.squad import read_examples
    from bert_qa.windows import load_tokenizer, make_windows

    models = row.folder / "models"
    tokenizer = load_tokenizer(models / "fp32")
    windows = make_windows(
        read_examples(row.folder / "data/squad/validation.jsonl"),
        tokenizer,
        **{key.partition("__")[2]: PARAMS[key] for key in PARAMS if key.startswith("windows__")},
    )
    ours, theirs = (
        run_windows(forward, windows)
        for forward in (
            onnx_forward(models / "onnx/qat", "OpenVINOExecutionProvider", "fp32"),
            torch_forward(load_quantized(models / "qat")),
        )
    )
    seconds = step_seconds(models / "fp32", models / "ptq", windows, steps=7)
    share = seconds["QAT, FP32"] / seconds["QAT, NNCF's operators, FP32"]
    return relative_rms(ours, theirs), share


def main() -> int:
    transformers.logging.set_verbosity_error()
    kinds = sys.argv[1:] or architectures()
    root = Path(tempfile.mkdtemp(prefix="encoders-"))
    lines = []
    # Most of the time goes to a stage's imports, which take one core. What is timed runs alone.
    with ThreadPoolExecutor(2) as executor:
        rows = list(executor.map(lambda kind: reproduce(kind, root), kinds))
    for row in rows:
        if row.refused:
            message = row.refused.replace(str(root / row.kind), "").replace("|", "\\|")
            lines.append(f"| `{row.kind}` | `{message}` | | | | | |")
            continue
        provider, share = measure(row)
        fp32, ptq, qat = (f"{value:.0e}" for value in row.differences)
        steps = ", ".join(f"`{step}`" for step in row.left_out) or "none"
        cells = [f"`{row.kind}`", fp32, ptq, qat, f"{provider:.3f}", steps, f"{share:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if not sys.argv[1:]:
        passed = sum(not row.refused for row in rows)
        text = HEAD.format(passed=passed, all=len(rows), version=transformers.__version__)
        PAGE.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    else:
        print("\n".join(lines))
    tracebacks = [row.kind for row in rows if row.refused.startswith("a traceback")]
    if tracebacks:
        print(f"no clear line: {', '.join(tracebacks)}; see {root}")
        return 1
    shutil.rmtree(root)
    return 0


HEAD = """\
# Encoders

{passed} of the {all} architectures that transformers {version} has for question answering and for
masks go through the pipeline; the others are refused in one line, by
`probe`, before any stage that takes hours. `make encoders` writes this page: for each a tiny model
of three layers with random weights is taken through `dvc repro`. Random weights say nothing of
accuracy, and make INT8's differences larger than a trained model's: each step is compared with the
one before.

- **FP32, PTQ, QAT**: ONNX from torch, root mean square of the logits' differences over that of the
  logits; ONNX Runtime runs the graph as it is written.
- **provider**: QAT on the OpenVINO execution provider from fake-quantized torch.
- **left out**: steps of the recipe that do not suit the layers.
- **step**: time of a training step with this project's quantizers, by the time with NNCF's; FP32,
  median of 7.

| `model_type` | FP32 | PTQ | QAT | provider | left out | step |
| --- | --- | --- | --- | --- | --- | --- |
"""


if __name__ == "__main__":
    sys.exit(main())
