"""Channel-wise shifting: the same function, with its channels centered."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModelForQuestionAnswering,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedModel,
    RobertaConfig,
)

from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.logits import Logits, run_windows
from bert_qa.quantization.channel_shifting import ChannelShifting
from bert_qa.quantization.observing import change
from bert_qa.squad import read_questions
from bert_qa.windows import WindowSet, make_windows
from tests.conftest import ROOT

SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": 30522,
}


@pytest.fixture(scope="module")
def windows(tokenizer: Any) -> WindowSet:
    examples = read_questions(ROOT / "data/sample/train.json")[:6]
    return make_windows(examples, tokenizer, max_length=96, doc_stride=16, max_question_length=32)


def one_sided(model: PreTrainedModel) -> PreTrainedModel:
    """Biases as a trained model has them, and one channel that lies far to one side."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
                module.bias.normal_(std=0.1)
            if isinstance(module, nn.LayerNorm):
                module.bias[7] += 20
    return model.eval()


def outputs(model: PreTrainedModel, norm: nn.Module, windows: WindowSet) -> torch.Tensor:
    """All outputs of a normalization, (tokens, channels)."""
    seen: list[torch.Tensor] = []
    handle = norm.register_forward_hook(lambda _, __, output: seen.append(output.flatten(0, 1)))
    run_windows(torch_forward(model), windows)
    handle.remove()
    return torch.cat(seen)


def centered(model: PreTrainedModel, windows: WindowSet) -> int:
    """How many normalizations were."""
    (found,) = change(model, windows, [ChannelShifting(model, windows)])
    return found


def assert_same(before: list[Logits], after: list[Logits]) -> None:
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.start, b.start, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(a.end, b.end, rtol=1e-4, atol=1e-4)


def test_the_function_is_the_same_and_the_channels_centered(
    tiny_model: Path, windows: WindowSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In FP32: BF16, of three digits, finds middles no nearer than that.
    monkeypatch.setattr("bert_qa.quantization.observing.can_bf16", lambda: False)
    model = one_sided(load_model(tiny_model, dropout=False)[0])
    before = run_windows(torch_forward(model), windows)
    layer = model.bert.encoder.layer[0]
    norms = [model.bert.embeddings.LayerNorm, layer.attention.output.LayerNorm]
    norms.append(layer.output.LayerNorm)
    assert all(outputs(model, norm, windows)[:, 7].min() > 10 for norm in norms)
    last = model.bert.encoder.layer[1].output.LayerNorm.bias.clone()
    assert centered(model, windows) == 4
    assert_same(before, run_windows(torch_forward(model), windows))
    for norm in norms:
        # Window by window, without the padding, which shifting does not look at.
        values = torch.cat(
            [
                outputs(model, norm, windows.take([i]))[:length]
                for i, length in enumerate(windows.lengths)
            ]
        )
        middles = (values.amax(0) + values.amin(0)) / 2
        assert middles.abs().max() < 1e-3
    assert torch.equal(model.bert.encoder.layer[1].output.LayerNorm.bias, last)  # no layer after it


@pytest.mark.parametrize(
    ("config", "shifted"),
    [
        (RobertaConfig(**SMALL, max_position_embeddings=130), 4),
        (DistilBertConfig(n_layers=2, n_heads=4, dim=64, hidden_dim=96), 4),
        # A projection between embeddings and layers, read by a layer of another width.
        (ElectraConfig(**SMALL, embedding_size=32), 3),
        # One layer called again and again: nothing that is true of each call.
        (AlbertConfig(**SMALL, embedding_size=32), 0),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_relatives_of_bert(config: AutoConfig, shifted: int, windows: WindowSet) -> None:
    model = one_sided(AutoModelForQuestionAnswering.from_config(config, trust_remote_code=False))
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        without = [replace(window, token_type_ids=None) for window in windows]
        windows = WindowSet(without, windows.pad_token_id)
    forward = torch_forward(model)
    before = run_windows(forward, windows)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    biases = [norm.bias.clone() for norm in norms]
    assert centered(model, windows) == shifted
    assert_same(before, run_windows(forward, windows))
    moved = [not torch.equal(n.bias, b) for n, b in zip(norms, biases, strict=True)]
    assert sum(moved) == shifted


def test_a_model_joined_otherwise_stays_as_it_is(tiny_model: Path, windows: WindowSet) -> None:
    model = one_sided(load_model(tiny_model, dropout=False)[0])
    layer = model.bert.encoder.layer[0].attention.output
    layer.register_forward_hook(lambda _, inputs, output: output + torch.relu(inputs[1] - 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert centered(model, windows) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
