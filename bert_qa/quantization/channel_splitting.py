"""Outlier channel splitting: the same FP32 function, easier to quantize.

In BERT's feed-forward layers one or two channels carry activations and weights a hundred times
those of the others, and a quantizer that covers them has few steps left for the rest. Such a
channel is copied and its outgoing weights shared among the copies, so that none stands out (Zhao et
al., 2019, "Improving Neural Network Quantization without Retraining using Outlier Channel
Splitting"). The model is a plain one, of wider feed-forward layers. Knows nothing of quantizers.
"""

from __future__ import annotations

import heapq

import torch
from torch import nn
from transformers import PreTrainedModel

from bert_qa.checkpoints import torch_forward
from bert_qa.logits import same_function
from bert_qa.quantization.observing import Handle, Tokens
from bert_qa.windows import WindowSet


class ChannelSplitting:
    """Adds channels to each feed-forward layer of a model, in place: copies of outliers.

    Each copy goes to the channel whose largest activation times its largest outgoing weight,
    divided by the copies it has, is the highest: a product that SmoothQuant's scaling, which moves
    a factor from the one to the other, leaves as it is.
    """

    def __init__(self, model: PreTrainedModel, windows: WindowSet, copies: int) -> None:
        """Find the feed-forward layers.

        Args:
            windows: of which the first passes.
            copies: channels to add.
        """
        self._model, self._copies = model, copies
        self._forward, self._first = torch_forward(model), windows.pad([0])
        self._layers = _feed_forward_layers(model)
        self._largest = [
            torch.zeros(second.in_features, device=model.device) for _, second in self._layers
        ]

    def watch(self, tokens: Tokens) -> list[Handle]:
        """Put on hooks that note the largest activation of each channel."""
        handles: list[Handle] = []
        for largest, (_, second) in zip(self._largest, self._layers, strict=True):

            def note(
                _: nn.Module, inputs: tuple[torch.Tensor], seen: torch.Tensor = largest
            ) -> None:
                torch.maximum(seen, tokens.rows(inputs[0]).abs().amax(0), out=seen)

            handles.append(second.register_forward_pre_hook(note))
        return handles

    def apply(self) -> int:
        """Split the channels that stand out.

        Returns:
            How many feed-forward layers were widened. 0 where they cannot be told from the model's
            other layers, or are not of two linear layers and a function of each channel between
            them: the model is left as it was.
        """
        if not self._layers:
            return 0
        before = self._forward(self._first)
        parameters = [(first.weight, first.bias, second.weight) for first, second in self._layers]
        with torch.no_grad():
            for largest, (first, second) in zip(self._largest, self._layers, strict=True):
                products = largest * second.weight.abs().amax(dim=0)
                _split(first, second, _shares(products.tolist(), self._copies))
        if same_function(before, self._forward(self._first)):
            setattr(self._model.config, _size_key(self._model), self._layers[0][1].in_features)
            return len(self._layers)
        for (first, second), (weight, bias, second_weight) in zip(
            self._layers, parameters, strict=True
        ):
            first.weight, first.bias, second.weight = weight, bias, second_weight
            first.out_features = second.in_features = len(bias)
        return 0


def _shares(products: list[float], copies: int) -> list[int]:
    """How many channels each channel becomes."""
    shares = [1] * len(products)
    heap = [(-product, channel) for channel, product in enumerate(products)]
    heapq.heapify(heap)
    for _ in range(copies):
        _, channel = heap[0]
        shares[channel] += 1
        heapq.heapreplace(heap, (-products[channel] / shares[channel], channel))
    return shares


def _split(first: nn.Linear, second: nn.Linear, shares: list[int]) -> None:
    # The first of each channel where it was, the copies behind all of them.
    order = list(range(len(shares)))
    order += [channel for channel, share in enumerate(shares) for _ in range(share - 1)]
    divisors = torch.tensor(
        [float(shares[channel]) for channel in order], device=second.weight.device
    )
    first.weight = nn.Parameter(first.weight[order])
    first.bias = nn.Parameter(first.bias[order])
    second.weight = nn.Parameter(second.weight[:, order] / divisors)
    first.out_features = second.in_features = len(order)


def _feed_forward_layers(model: PreTrainedModel) -> list[tuple[nn.Linear, nn.Linear]]:
    """The two linear layers of each feed-forward layer, by their sizes; none if not told."""
    wide, narrow = getattr(model.config, _size_key(model), None), model.config.hidden_size
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    first = [m for m in linear if (m.in_features, m.out_features) == (narrow, wide)]
    second = [m for m in linear if (m.in_features, m.out_features) == (wide, narrow)]
    if wide == narrow or len(first) != len(second):
        return []
    return list(zip(first, second, strict=True))


def _size_key(model: PreTrainedModel) -> str:
    """What the config calls the width of the feed-forward layers."""
    return "hidden_dim" if model.config.model_type == "distilbert" else "intermediate_size"
