"""Channel-wise shifting: the same FP32 function, with the channels between its layers centered.

A few channels of BERT's layer normalizations lie far to one side, on special tokens above all. The
middle of each channel's range is taken out of the normalization's bias and put back into the biases
of what reads it, as in Outlier Suppression+ (Wei et al., 2023): the ranges halve, at no cost when
the model runs. Knows nothing of quantizers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from bert_qa.checkpoints import torch_forward
from bert_qa.logits import same_function
from bert_qa.quantization.observing import Handle, Tokens, hooked
from bert_qa.windows import WindowSet

Batch = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class _Junction:
    """A normalization and all that reads it: `readers` directly, `residual` by way of a sum.

    The sum is of the normalization's output and that of `residual`, a linear layer too.
    """

    norm: nn.LayerNorm
    readers: list[nn.Linear]
    residual: nn.Linear


@dataclass(frozen=True)
class _Call:
    """A module's part in a forward pass; holding the tensors keeps their addresses apart."""

    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor


class ChannelShifting:
    """Centers the outputs of a model's layer normalizations, channel by channel, in place.

    Normalizations whose readers cannot be told, or are called more than once in a forward pass as
    in ALBERT, stay as they are.
    """

    def __init__(self, model: PreTrainedModel, windows: WindowSet) -> None:
        """Find what to center.

        Args:
            windows: of which the first passes.
        """
        self._forward, self._first = torch_forward(model), windows.pad([0])
        self._junctions = _junctions(model, self._first)
        norms = [junction.norm for junction in self._junctions]
        self._lows = [torch.full_like(norm.bias, torch.inf) for norm in norms]
        self._highs = [torch.full_like(norm.bias, -torch.inf) for norm in norms]

    def watch(self, tokens: Tokens) -> list[Handle]:
        """Put on hooks that note the range of each channel."""
        handles: list[Handle] = []
        for junction, low, high in zip(self._junctions, self._lows, self._highs, strict=True):

            def note(
                _: nn.Module,
                __: tuple[torch.Tensor, ...],
                output: torch.Tensor,
                low: torch.Tensor = low,
                high: torch.Tensor = high,
            ) -> None:
                rows = tokens.rows(output)
                torch.minimum(low, rows.amin(0), out=low)
                torch.maximum(high, rows.amax(0), out=high)

            handles.append(junction.norm.register_forward_hook(note))
        return handles

    def apply(self) -> int:
        """Move the middle of each range into the biases around it.

        Returns:
            How many normalizations were centered. 0 for a model whose layers are joined in another
            way than BERT's, so that it would not be the same function afterwards: it is left as it
            was.
        """
        if not self._junctions:
            return 0
        before = self._forward(self._first)
        middles = [(low + high) / 2 for low, high in zip(self._lows, self._highs, strict=True)]
        biases = [
            (bias, bias.detach().clone())
            for junction in self._junctions
            for bias in (
                junction.norm.bias,
                junction.residual.bias,
                *(reader.bias for reader in junction.readers),
            )
        ]
        with torch.no_grad():
            for junction, middle in zip(self._junctions, middles, strict=True):
                junction.norm.bias.sub_(middle)
                for reader in junction.readers:
                    reader.bias.add_(reader.weight @ middle)
                junction.residual.bias.add_(middle)
        if same_function(before, self._forward(self._first)):
            return len(self._junctions)
        for bias, value in biases:
            bias.data = value
        return 0


def _junctions(model: PreTrainedModel, batch: Batch) -> list[_Junction]:
    calls = _calls(model, batch)
    times = Counter(call.module for call in calls)
    norms = [at for at, call in enumerate(calls) if isinstance(call.module, nn.LayerNorm)]
    junctions = []
    for at, following in itertools.pairwise(norms):
        norm, residual = calls[at], calls[following - 1].module
        readers = [call.module for call in calls if _same(call.input, norm.output)]
        parts = [norm.module, residual, *readers]
        if (
            isinstance(norm.module, nn.LayerNorm)
            and isinstance(residual, nn.Linear)
            and residual.out_features == norm.output.shape[-1]
            and all(times[part] == 1 and part.bias is not None for part in parts)
            and readers
            and all(isinstance(reader, nn.Linear) for reader in readers)
        ):
            junctions.append(_Junction(norm.module, readers, residual))  # type: ignore[arg-type]
    return junctions


def _calls(model: PreTrainedModel, batch: Batch) -> list[_Call]:
    """The linear layers and layer normalizations of one forward pass, in their order."""
    calls: list[_Call] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls.append(_Call(module, inputs[0], output))

    handles = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.LayerNorm))
    ]
    with hooked(handles):
        torch_forward(model)(batch)
    return calls


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape
