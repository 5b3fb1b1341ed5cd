"""GPTQ: what a layer's output loses by rounding, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nncf.torch.function_hook import get_hook_storage
from transformers import AlbertConfig, AutoModelForQuestionAnswering

from bert_qa.checkpoints import load_model
from bert_qa.params import read_all_params
from bert_qa.quantization import gptq as rounding
from bert_qa.quantization.gptq import _input_products, _rounded, round_weights
from bert_qa.quantization.nncf_model import calibrate, quantized_linears
from bert_qa.quantization.overflow_fix import widen_ranges
from bert_qa.squad import read_questions
from bert_qa.windows import make_windows
from tests.conftest import ROOT


@pytest.fixture
def layer() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight (24, 200), steps (24, 1), products (200, 200) of inputs that depend on others."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 200, generator=generator, dtype=torch.float64)
    hidden = torch.randn(1000, 20, generator=generator, dtype=torch.float64)
    inputs = hidden @ torch.randn(20, 200, generator=generator, dtype=torch.float64)
    inputs += 0.3 * torch.randn(1000, 200, generator=generator, dtype=torch.float64)
    inputs[:, 7] = 0  # a channel that is never used
    return weight, weight.abs().amax(1, keepdim=True) / 127, inputs.T @ inputs


def lost(weight: torch.Tensor, wanted: torch.Tensor, products: torch.Tensor) -> float:
    """Squared difference of the outputs, summed over what `products` was summed over."""
    difference = wanted - weight
    return float((difference @ products * difference).sum())


def test_the_output_loses_less(layer: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    weight, step, products = layer
    wanted = _rounded(weight, step, products)
    multiples = wanted / step
    torch.testing.assert_close(multiples, multiples.round())
    assert multiples.abs().max() <= 127 + 1e-9
    # A range that the overflow fix has widened: what is beyond the weights stays empty.
    assert (_rounded(weight, 2 * step, products) / (2 * step)).abs().max() <= 64 + 1e-9
    nearest = (weight / step).round() * step
    assert lost(weight, wanted, products) < 0.3 * lost(weight, nearest, products)


def test_inputs_that_do_not_depend_on_each_other_round_to_the_nearest(
    layer: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    weight, step, _ = layer
    used = torch.arange(1, 201, dtype=torch.float64)
    wanted = _rounded(weight, step, torch.diag(used))
    torch.testing.assert_close(wanted, (weight / step).round() * step)


def test_blocks_are_for_speed_alone(
    layer: tuple[torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, step, products = layer
    wanted = _rounded(weight, step, products)
    monkeypatch.setattr(rounding, "BLOCK", 1)
    torch.testing.assert_close(_rounded(weight, step, products), wanted)


def test_a_quantized_model_keeps_its_hooks_and_loses_less(tiny_model: Path, tokenizer: Any) -> None:
    examples = read_questions(ROOT / "data/sample/train.json")[:8]
    windows = make_windows(
        examples, tokenizer, max_length=96, doc_stride=16, max_question_length=32
    )
    options = read_all_params(ROOT / "params.yaml").calibrate.model_copy(
        update={"split_channels": 0}
    )
    model = calibrate(load_model(tiny_model, dropout=False)[0], windows, options)
    layers = quantized_linears(model, windows)
    products = _input_products(model, layers, windows)
    assert not any(layer.quantizer._forward_pre_hooks for layer in layers)
    assert len(layers) == 2 * 6 + 1  # of two encoder layers, and the head
    before = [layer.weight.detach().clone() for layer in layers]
    names = list(model.state_dict())
    round_weights(model, windows)
    assert list(model.state_dict()) == names
    storage = get_hook_storage(model)
    assert not any(
        isinstance(hook, rounding._Inputs)
        for hooks in storage.pre_hooks.values()
        for hook in hooks.values()
    )
    for layer, weight in zip(layers, before, strict=True):
        _, _, scale, _ = layer.quantizer.get_parameters_for_torch_fq()
        step = scale.double().reshape(-1, 1)
        now = layer.weight.detach().double()
        nearest, wanted = (
            layer.quantizer.quantize(values).detach().double() for values in (weight, layer.weight)
        )
        was, sums = weight.double(), products[layer.weight]
        assert lost(was, wanted, sums) < 0.9 * lost(was, nearest, sums)
        # What rounds as it did has not moved, but off the boundary between two steps.
        assert ((now - was).abs() < 0.011 * step)[(wanted - nearest).abs() < 0.5 * step].all()
        assert 0 < ((wanted - nearest).abs() > 0.5 * step).double().mean() < 0.9


def test_a_weight_that_is_called_again_is_rounded_once(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = AlbertConfig(
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_size=64,
        intermediate_size=96,
        embedding_size=32,
        vocab_size=30522,
    )
    examples = read_questions(ROOT / "data/sample/train.json")[:4]
    windows = make_windows(
        examples, tokenizer, max_length=96, doc_stride=16, max_question_length=32
    )
    options = read_all_params(ROOT / "params.yaml").calibrate
    model = AutoModelForQuestionAnswering.from_config(config, trust_remote_code=False).eval()
    model = calibrate(model, windows, options)
    calls = quantized_linears(model, windows)
    by_weight = {call.weight: [c for c in calls if c.weight is call.weight] for call in calls}
    # The projection of the embeddings, one encoder layer that is called twice, the head.
    assert sorted(map(len, by_weight.values())) == [1] * 2 + [2] * 6
    widen_ranges(model, windows)
    together = _input_products(model, calls, windows)
    for weight, same in by_weight.items():
        each = [_input_products(model, [call], windows)[weight] for call in same]
        torch.testing.assert_close(together[weight], torch.stack(each).sum(0), rtol=1e-4, atol=1e-4)
        ranges = [call.quantizer.scale for call in same]
        assert all(torch.equal(ranges[0], scale) for scale in ranges)
    rounded = []

    def note(*given: torch.Tensor) -> torch.Tensor:
        rounded.append(given[2])
        return _rounded(*given)

    monkeypatch.setattr(rounding, "_rounded", note)
    round_weights(model, windows)
    assert len(rounded) == len(by_weight)
    for products, wanted in zip(rounded, together.values(), strict=True):
        torch.testing.assert_close(products, wanted)
