"""Outlier channel splitting: the same function, without the outlier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.logits import run_windows
from bert_qa.quantization.channel_splitting import ChannelSplitting, _shares
from bert_qa.quantization.observing import change
from bert_qa.squad import read_questions
from bert_qa.windows import WindowSet, make_windows
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def windows(tokenizer: Any) -> WindowSet:
    examples = read_questions(ROOT / "data/sample/train.json")[:6]
    return make_windows(examples, tokenizer, max_length=96, doc_stride=16, max_question_length=32)


def widened(model: PreTrainedModel, windows: WindowSet, copies: int) -> int:
    """How many feed-forward layers were."""
    (found,) = change(model, windows, [ChannelSplitting(model, windows, copies)])
    return found


def test_the_function_is_the_same_and_the_outlier_gone(
    tiny_model: Path, windows: WindowSet
) -> None:
    model, _ = load_model(tiny_model, dropout=False)
    layers = model.bert.encoder.layer
    with torch.no_grad():  # channel 5 of the second layer writes 40 times as much as others
        layers[1].output.dense.weight[:, 5] *= 40
    before = run_windows(torch_forward(model), windows)
    columns = layers[1].output.dense.weight.detach().abs().amax(0)
    assert widened(model, windows, copies=32) == 2
    after = run_windows(torch_forward(model), windows)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.start, b.start, rtol=1e-4, atol=1e-3)
    assert model.config.intermediate_size == 128 + 32
    assert layers[0].intermediate.dense.out_features == 128 + 32
    weight = layers[1].output.dense.weight.detach()
    assert weight.shape == (64, 128 + 32)
    assert weight.abs().max() < columns.max() / 8
    with torch.no_grad():
        assert model.bert.encoder.layer[0].intermediate.dense.weight.shape == (128 + 32, 64)


def test_copies_go_where_the_product_is_largest() -> None:
    assert _shares([1.0, 100.0, 40.0], 4) == [1, 4, 2]  # 25 and 20 each
    assert _shares([1.0, 1.0], 0) == [1, 1]


def test_a_layer_with_something_between_stays_as_it_is(
    tiny_model: Path, windows: WindowSet
) -> None:
    """A function of all channels together, as a soft-max or a normalization is."""
    model, _ = load_model(tiny_model, dropout=False)
    model.bert.encoder.layer[0].intermediate.register_forward_hook(
        lambda _, __, output: output.softmax(-1) * 10
    )
    before = run_windows(torch_forward(model), windows)
    assert widened(model, windows, copies=4) == 0
    assert model.config.intermediate_size == 128
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 128
    for a, b in zip(before, run_windows(torch_forward(model), windows), strict=True):
        np.testing.assert_array_equal(a.start, b.start)


def test_layers_that_cannot_be_told_apart_stay_as_they_are(
    tiny_model: Path, windows: WindowSet
) -> None:
    model, _ = load_model(tiny_model, dropout=False)
    model.config.intermediate_size = model.config.hidden_size
    assert widened(model, windows, copies=4) == 0
