"""Weights whose INT8 products add up in 16 bits: INT8 that is exact on processors without VNNI too.

Those multiply UINT8 by INT8 in pairs and add each pair in 16 bits, which saturates ("Nuances of
int8 computations", oneDNN's developer guide). NNCF's overflow fix doubles the ranges of all
weights, which costs each a bit; here a channel's range grows only as far as its own pairs need.
Knows nothing of how quantizers come into a model.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from bert_qa.quantization.nncf_model import quantized_linears
from bert_qa.windows import WindowSet

LARGEST_PAIR = (2**15 - 1) // 255
"""What two weights of one sign may add up to, in steps, where both inputs are the largest UINT8."""

MARGIN = 3
"""Steps left free in a pair, which rounding and training may add: GPTQ was seen to add two."""


def widen_ranges(model: PreTrainedModel, windows: WindowSet) -> None:
    """Widen the ranges of a fake-quantized model's linear weights, in place, where pairs overflow.

    The pairs are those of `vpmaddubsw`: inputs 0 and 1 of a layer, 2 and 3, and so on. A channel
    whose pairs fit already keeps its range. The products of attention have no weights: quantized,
    they may still overflow.

    Args:
        windows: for one forward pass, see `quantized_linears`.
    """
    with torch.no_grad():
        for linear in quantized_linears(model, windows):
            _, _, step, _ = linear.quantizer.get_parameters_for_torch_fq()
            pairs = largest_pairs((linear.weight / step.reshape(-1, 1)).round())
            factor = (pairs / (LARGEST_PAIR - MARGIN)).clamp(min=1)
            linear.quantizer.scale.mul_(factor.reshape(linear.quantizer.scale.shape))


def largest_pairs(levels: torch.Tensor) -> torch.Tensor:
    """The largest sum of two neighbours of one sign in each row, without its sign.

    Args:
        levels: weights in steps of their quantizer, (out, in).

    Returns:
        One a row, (out,).
    """
    even = functional.pad(levels, (0, levels.shape[1] % 2))
    pairs = even.reshape(len(even), -1, 2)
    return torch.maximum(pairs.relu().sum(2), (-pairs).relu().sum(2)).amax(1)
