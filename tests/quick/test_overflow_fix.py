"""The overflow fix: ranges as wide as pairs of weights need, and no wider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from bert_qa.checkpoints import load_model
from bert_qa.params import read_all_params
from bert_qa.quantization.gptq import round_weights
from bert_qa.quantization.nncf_model import calibrate, quantized_linears
from bert_qa.quantization.overflow_fix import LARGEST_PAIR, MARGIN, largest_pairs, widen_ranges
from bert_qa.squad import read_questions
from bert_qa.windows import WindowSet, make_windows
from tests.conftest import ROOT


def test_a_pair_is_two_neighbours_of_one_sign() -> None:
    levels = torch.tensor(
        [
            [100.0, -100.0, 30.0, 20.0, 0.0],  # signs that differ cannot overflow
            [1.0, 90.0, 90.0, 1.0, 0.0],  # neighbours, but not of one pair
            [-70.0, -60.0, 100.0, 9.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, -127.0],  # the last of an odd number has no partner
        ]
    )
    assert largest_pairs(levels).tolist() == [100, 91, 130, 127]


@pytest.fixture
def windows(tokenizer: Any) -> WindowSet:
    examples = read_questions(ROOT / "data/sample/train.json")[:8]
    return make_windows(examples, tokenizer, max_length=96, doc_stride=16, max_question_length=32)


@pytest.fixture
def model(tiny_model: Path, windows: WindowSet) -> PreTrainedModel:
    options = read_all_params(ROOT / "params.yaml").calibrate
    return calibrate(load_model(tiny_model, dropout=False)[0], windows, options)


def levels_and_steps(
    model: PreTrainedModel, windows: WindowSet
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with torch.no_grad():
        layers = quantized_linears(model, windows)
        steps = [layer.quantizer.get_parameters_for_torch_fq()[2] for layer in layers]
        return [
            ((layer.weight / step.reshape(-1, 1)).round(), step)
            for layer, step in zip(layers, steps, strict=True)
        ]


def test_ranges_are_as_wide_as_needed(model: PreTrainedModel, windows: WindowSet) -> None:
    before = levels_and_steps(model, windows)
    others = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if "/linear/" not in name or "__1." not in name
    }
    widen_ranges(model, windows)
    after = levels_and_steps(model, windows)
    assert len(after) == 2 * 6 + 1  # of two encoder layers, and the head
    room = LARGEST_PAIR - MARGIN
    widened = 0
    for (was, step), (now, wider) in zip(before, after, strict=True):
        fits = largest_pairs(was) <= room
        assert torch.equal(step[fits], wider[fits])
        assert (largest_pairs(now) <= room + 1).all()  # two weights are rounded
        assert (largest_pairs(now)[~fits] >= room - 1).all()
        widened += int((~fits).sum())
    assert widened > 0
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in others.items())


def test_no_pair_saturates_after_rounding(model: PreTrainedModel, windows: WindowSet) -> None:
    widen_ranges(model, windows)
    round_weights(model, windows)
    for levels, _ in levels_and_steps(model, windows):
        assert (largest_pairs(levels) <= LARGEST_PAIR).all()


def test_a_pair_that_is_a_step_larger_saturates() -> None:
    for largest, saturates in ((LARGEST_PAIR, False), (LARGEST_PAIR + 1, True)):
        assert (255 * largest > np.iinfo(np.int16).max) is saturates
