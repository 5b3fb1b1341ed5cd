"""Encoders other than BERT, tiny and random, through the recipe to an exported model.

Weights of random models say nothing of accuracy: what is compared is each step with the one before.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from bert_qa.checkpoints import load_model, runs_in_bf16, save_checkpoint, torch_forward
from bert_qa.errors import UserError
from bert_qa.intake import build_checkpoint
from bert_qa.logits import relative_rms, run_windows
from bert_qa.params import read_all_params
from bert_qa.probe import probe, small_config
from bert_qa.quantization.nncf_model import fast_quantizers
from bert_qa.quantization.recipe import left_out, quantize
from bert_qa.squad import Example
from bert_qa.tracing import make_traceable
from bert_qa.windows import Tokenizer, WindowSet, load_tokenizer, make_windows
from tests.conftest import ROOT
from tests.encoders import FIRST, architectures, tiny

LEFT_OUT = {
    "albert": ["shift_channels"],  # one layer, called by all
    "deberta": ["shift_channels"],  # a LayerNorm of its own
    "convbert": ["shift_channels"],  # layers that convolutions read
    "modernbert": ["shift_channels", "split_channels"],  # no biases, and gates
    "squeezebert": ["shift_channels", "split_channels"],  # convolutions in place of linear layers
}
PARAMS = read_all_params(ROOT / "params.yaml")


def taken_in(kind: str, folder: Path, tokenizer: Tokenizer, tokenizer_folder: Path) -> Path:
    """A tiny model as download_model leaves it."""
    source, base = folder / "source", folder / "base"
    source.mkdir()
    base.mkdir()
    save_checkpoint(source, tiny(kind, tokenizer.backend.get_vocab_size()), tokenizer_folder)
    build_checkpoint(source, base, kind)
    return base


@pytest.mark.parametrize("kind", [*FIRST, "mpnet", "deberta", "convbert", "squeezebert"])
def test_an_encoder_goes_all_the_way(
    kind: str, tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Export, the recipe, training from a checkpoint, INT8 export and the execution provider."""
    base = taken_in(kind, tmp_path, tokenizer, tokenizer_folder)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    applied = probe(base, scratch, PARAMS.calibrate, "auto", "OpenVINOExecutionProvider")
    assert left_out(PARAMS.calibrate, applied) == LEFT_OUT.get(kind, [])


@pytest.mark.fault("a {kind}, which does not go through the pipeline")
@pytest.mark.parametrize("kind", ["fnet", "funnel"])
def test_an_encoder_that_cannot_is_one_line_before_the_work(
    kind: str, tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    base = taken_in(kind, tmp_path, tokenizer, tokenizer_folder)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(UserError, match=rf"model: .* fails for a {kind} \(.*\); use another"):
        probe(base, scratch, PARAMS.calibrate, "auto", "OpenVINOExecutionProvider")


def test_the_page_has_every_architecture() -> None:
    """`make encoders` writes it: each passed, or is refused in one line."""
    text = (ROOT / "docs/encoders.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    rows.pop("model_type")
    refused = {kind for kind, row in rows.items() if "`error: " in row}
    assert rows.keys() == {*architectures()}
    assert f"{len(rows) - len(refused)} of the {len(rows)} architectures" in " ".join(text.split())
    assert len(rows) - len(refused) >= 25
    assert {"fnet", "funnel"} <= refused
    assert not refused & {*FIRST}


def windows_of(model: PreTrainedModel, tokenizer: Tokenizer) -> WindowSet:
    types = "token_type_ids" in inspect.signature(type(model).forward).parameters
    read = replace(tokenizer, has_token_types=types, model_max_length=128)
    examples = [
        Example(str(i), "Where was Ada in 1830?", "Ada was in London, Byron in Greece. " * (1 + i))
        for i in range(6)
    ]
    return make_windows(
        examples,
        read,
        max_length=96,
        doc_stride=16,
        max_question_length=32,
        align_to_words=True,
    )


@pytest.mark.parametrize("kind", ["albert", "convbert", "modernbert"])
def test_fast_quantizers_are_the_same_function_and_train(kind: str, tokenizer: Tokenizer) -> None:
    model = tiny(kind, tokenizer.backend.get_vocab_size())
    make_traceable(model)
    windows = windows_of(model, tokenizer)
    model, _ = quantize(model, windows, PARAMS.calibrate)
    quantized = run_windows(torch_forward(model), windows)
    with fast_quantizers(model):
        batch = {key: torch.from_numpy(array) for key, array in windows[:2].pad().items()}
        assert relative_rms(run_windows(torch_forward(model), windows), quantized) < 0.05
        ends = torch.tensor([12, 13])
        loss = model.train()(**batch, start_positions=ends - 2, end_positions=ends).loss
        loss.backward()
        layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d))]
        assert len(layers) > 6
        for layer in layers:
            assert layer.weight.grad is not None
            assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("kind", "runs"), [("bert", True), ("deberta", False)])
def test_training_falls_back_to_fp32_where_a_model_has_no_bf16(
    kind: str, runs: bool, tokenizer: Tokenizer
) -> None:
    model = tiny(kind, tokenizer.backend.get_vocab_size()).train()
    assert runs_in_bf16(model, windows_of(model, tokenizer)) == runs
    assert model.training


def test_a_probe_is_small(tiny_model: Path, tmp_path: Path, tokenizer_folder: Path) -> None:
    """Two layers and few tokens, whatever the model has; as wide as it is."""
    model, _ = load_model(tiny_model, dropout=False)
    model.config.num_hidden_layers = 24
    save_checkpoint(tmp_path, model, tokenizer_folder)
    tokenizer = load_tokenizer(tmp_path)
    windows = windows_of(model, tokenizer)
    config = small_config(tmp_path, windows)
    assert (config.num_hidden_layers, config.hidden_size) == (2, 64)
    assert max(max(window.input_ids) for window in windows) < config.vocab_size < 20_000
