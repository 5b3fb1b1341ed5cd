"""GPTQ: weights rounded so that each layer's output stays, not each weight.

The error of rounding one weight is made good by those that are not rounded yet, as the layer's real
inputs weigh them (Frantar et al., 2022, "GPTQ"). NNCF has GPTQ for the compression of weights alone
(`nncf.compress_weights`); this is for a model whose activations are quantized as well, before it
trains. Knows nothing of how quantizers come into a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nncf.torch.function_hook import register_pre_function_hook
from torch import nn
from transformers import PreTrainedModel

from bert_qa.quantization.nncf_model import QuantizedLinear, quantized_linears
from bert_qa.quantization.observing import Tokens, hooked
from bert_qa.windows import WindowSet

TOKENS_PER_CHANNEL = 32
"""Of what a layer reads, tokens that are summed up for each of its channels, at the most: the paper
has 5 to 20 for its largest models."""

DAMPING = 0.01
"""Added to the diagonal, times its mean, so that a channel that is never used does no harm."""

BLOCK = 128
"""Columns per block: errors propagate to later columns once per block. Affects speed only.

Both constants are the paper's."""


class _Inputs(nn.Module):
    """What a linear layer is seen to read while calibration windows pass.

    Attributes:
        products: sum of the outer products of its inputs, as quantized, float32 (in, in); in
            float64, adding up would take as long as the products.
    """

    products: torch.Tensor

    def __init__(self, tokens: Tokens, weight: nn.Parameter) -> None:
        super().__init__()
        self._tokens = tokens
        self.products = weight.new_zeros(weight.shape[1], weight.shape[1])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """As a function hook behind the quantizer of the inputs: adds to `products`."""
        rows = self._tokens.rows(values, TOKENS_PER_CHANNEL * values.shape[-1])
        with torch.autocast(rows.device.type, enabled=False):
            self.products.addmm_(rows.T, rows)
        return values


def round_weights(model: PreTrainedModel, windows: WindowSet) -> int:
    """Move the weights of a fake-quantized model's linear layers to round as GPTQ does, in place.

    Each weight goes no further than into the range of values that round so: training still finds it
    near what it was.

    Args:
        windows: calibration set. The products of all layers' inputs are in memory together: 8
            bytes times the square of each layer's inputs.

    Returns:
        How many weights were rounded so; those whose layer read zeros alone stay as they are.
    """
    linears = quantized_linears(model, windows)
    with torch.no_grad():
        products = {
            weight: seen
            for weight, seen in _input_products(model, linears, windows).items()
            if seen.any()
        }
        # A weight that is called more than once has a quantizer for each call, all of one range.
        quantizers = {each.weight: each.quantizer for each in linears}
        for weight, seen in products.items():
            quantizer = quantizers[weight]
            _, _, scale, _ = quantizer.get_parameters_for_torch_fq()
            exact, step = weight.double(), scale.double().reshape(-1, 1)
            wanted = _rounded(exact, step, seen)
            # A hundredth of a step inside the range: the quantizer divides in float32.
            weight.copy_(exact.clamp(wanted - 0.49 * step, wanted + 0.49 * step))
    return len(products)


def _input_products(
    model: PreTrainedModel,
    linears: Sequence[QuantizedLinear],
    windows: WindowSet,
) -> dict[nn.Parameter, torch.Tensor]:
    """Of each weight, the `_Inputs.products` of all its calls."""
    tokens = Tokens(model, windows)
    seen = {linear.weight: _Inputs(tokens, linear.weight) for linear in linears}
    handles = [
        register_pre_function_hook(model, linear.operator, 0, seen[linear.weight])
        for linear in linears
    ]
    with hooked(handles):
        tokens.pass_all("inputs of layers")
    return {weight: inputs.products.double() for weight, inputs in seen.items()}


def _rounded(weight: torch.Tensor, step: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """GPTQ, the most used inputs first, within the range of each row's own weights.

    The quantizer's can be wider: `bert_qa.quantization.overflow_fix` widens it to keep sums small.

    Args:
        weight: float64 (out, in).
        step: of each row, float64 (out, 1).
        products: float64 (in, in).

    Returns:
        Multiples of the step, float64 (out, in).
    """
    diagonal = products.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    damped = products + torch.diag(torch.full_like(diagonal, DAMPING * float(diagonal.mean())))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    largest = (weight / step).abs().amax(dim=1, keepdim=True).round()
    left, wanted = weight[:, order].clone(), torch.empty_like(weight)
    for start in range(0, len(order), BLOCK):
        block = slice(start, min(start + BLOCK, len(order)))
        errors = torch.empty_like(left[:, block])
        for at in range(block.start, block.stop):
            column = left[:, at : at + 1]
            rounded = (column / step).round().clamp(-largest, largest) * step
            error = (column - rounded) / upper[at, at]
            left[:, at + 1 : block.stop] -= error * upper[at, at + 1 : block.stop]
            errors[:, at - start], wanted[:, order[at]] = error[:, 0], rounded[:, 0]
        left[:, block.stop :] -= errors @ upper[block, block.stop :]
    return wanted
