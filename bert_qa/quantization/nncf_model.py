"""NNCF: an FP32 model to a fake-quantized one, to and from disk, and to plain quantized operators.

`calibrate` inserts quantizers whose ranges come from real windows; the model it returns trains as
any other and its quantizers with it. Knows nothing of the training loop and nothing of ONNX.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nncf
import torch
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
)
from nncf.torch import get_config, load_from_config
from nncf.torch.extensions import ExtensionNamespace
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.quantization import extensions, reference
from nncf.torch.quantization.layers import BaseQuantizer, SymmetricQuantizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from bert_qa.checkpoints import WEIGHTS_FILE, copy_tokenizer, load_config_model, torch_forward
from bert_qa.errors import UserError, first_sentence
from bert_qa.params import Calibrate
from bert_qa.progress import progress
from bert_qa.quantization.observing import hooked
from bert_qa.windows import WindowSet, padded_length

nncf.set_log_level(logging.ERROR)


class _Operators(reference.ReferenceQuantize):  # type: ignore[misc]
    """What NNCF compiles from C++ at first use: the same calls of torch, which need no compiler.

    Training has operators of its own, see `fast_quantizers`.
    """

    def forward(
        self, values: torch.Tensor, low: torch.Tensor, size: torch.Tensor, levels: int
    ) -> torch.Tensor:
        """Round values to levels, as NNCF's C++ does.

        NNCF's own Python multiplies by a reciprocal where C++ divides, whose last bit differs.

        Args:
            low, size: of the range.
        """
        scale = torch.full_like(size, levels - 1) / size
        steps = torch.max(torch.min(values, low + size), low).sub_(low).mul_(scale)
        return steps.sub_((-low * scale).round_()).round_().div_(scale)


_OPERATORS = _Operators(reference.ReferenceBackendType.TORCH)
for _namespace in (extensions.QuantizedFunctionsCPU, extensions.QuantizedFunctionsCUDA):
    if isinstance(_namespace, ExtensionNamespace):  # of CUDA only where there is some
        _namespace._loaded_namespace = SimpleNamespace(
            Quantize_forward=_OPERATORS.forward, Quantize_backward=_OPERATORS.backward
        )

TOKENS = 2048
"""Of a batch that NNCF sees: with one window at a time, half of its time is Python's."""

QUANTIZATION_FILE = "nncf.json"


def calibrate(model: PreTrainedModel, windows: WindowSet, params: Calibrate) -> PreTrainedModel:
    """Insert INT8 quantizers, their ranges taken from `windows`.

    Weights are quantized per channel and symmetrically; `params.preset` says whether activations
    are symmetric too (`performance`) or not (`mixed`). NNCF's TRANSFORMER model type keeps
    soft-max, layer normalization and GELU in floating point; the two products of attention, which
    hold no weights, stay there too unless `params.quantize_attention`, and so do the embeddings of
    token types. SmoothQuant moves the outliers of activations into the weights first (Xiao et al.,
    2022); an alpha of -1 leaves it out.

    Args:
        windows: calibration set, one forward pass each.

    Returns:
        A fake-quantized model, trainable, its quantizers' ranges included.
    """
    batches = _equal_batches(windows)
    passes = 2 if params.smooth_quant_alpha >= 0 else 1
    total = len(batches[0]) + passes * len(windows)  # the first is traced
    with ExitStack() as stack:
        bar = stack.enter_context(progress("ranges of layers", total, "window"))
        # NNCF draws bars of its own on the standard output.
        stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))

        def tensors(indices: list[int]) -> dict[str, torch.Tensor]:
            bar.update(len(indices))
            arrays = windows.pad(indices)
            return {key: torch.from_numpy(a).to(model.device) for key, a in arrays.items()}

        return _quantize(model, nncf.Dataset(batches, tensors), len(batches), params)


def _equal_batches(windows: WindowSet) -> list[list[int]]:
    """Windows of the same padded length together, so that no range is one of more padding."""
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(windows.lengths):
        by_length.setdefault(padded_length(length), []).append(index)
    return [
        indices[at : at + rows]
        for length, indices in sorted(by_length.items())
        for rows in [max(1, TOKENS // length)]
        for at in range(0, len(indices), rows)
    ]


def _quantize(
    model: PreTrainedModel, dataset: nncf.Dataset, size: int, params: Calibrate
) -> PreTrainedModel:
    quantized: PreTrainedModel = nncf.quantize(
        model,
        dataset,
        preset=nncf.QuantizationPreset(params.preset),
        subset_size=size,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(
            # What encoders call the products of attention; layers with weights are "linear".
            types=[] if params.quantize_attention else ["matmul", "__matmul__", "bmm", "baddbmm"],
            patterns=[
                # A row or two, and every token adds one: what is rounded off does not average out.
                r".*token_type_embeddings.*",
                # Written out in parts, as DeBERTa's first version does: a variance in INT8 is 0.
                r".*LayerNorm/(?!layer_norm).*",
            ],
            validate=False,
        ),
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.DISABLE,  # bert_qa.quantization.overflow_fix widens less
            batchwise_statistics=True,  # the mean of each window's range, as without batches
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=params.smooth_quant_alpha),
        ),
    )
    return quantized


def save_quantized(folder: Path, model: PreTrainedModel, tokenizer: Path) -> None:
    """Write a fake-quantized model into an existing folder.

    Config and tokenizer (that of the folder `tokenizer`) as in any checkpoint, the tensors as
    safetensors, and NNCF's description of the quantizers as JSON.
    """
    model.config.save_pretrained(folder)
    copy_tokenizer(tokenizer, folder)
    # Tied quantizers are written once a name: safetensors' own bookkeeping of shared tensors has no
    # fixed order, and the same model must give the same bytes.
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.dumps(get_config(model), indent=1, sort_keys=True)
    (folder / QUANTIZATION_FILE).write_text(config + "\n", encoding="utf-8")


def load_quantized(folder: Path) -> PreTrainedModel:
    """Load what `save_quantized` wrote, in evaluation mode.

    Raises:
        UserError: the folder holds no fake-quantized model.
    """
    try:
        config = json.loads((folder / QUANTIZATION_FILE).read_text(encoding="utf-8"))
        model = load_from_config(load_config_model(folder), config)
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or folder}: no such file; run `dvc repro`") from None
    except Exception as error:  # of each file's reader, and of NNCF for what does not fit
        raise UserError(
            f"{folder}: not a fake-quantized model of this project ({type(error).__name__}:"
            f" {first_sentence(error)}); remove it and run `dvc repro`"
        ) from None
    return model.eval()


@contextmanager
def fast_quantizers(model: PreTrainedModel) -> Iterator[None]:
    """Train a fake-quantized model faster inside the block: the same function, fewer passes.

    NNCF's quantizers compute a gradient for their range, in several passes over each tensor, and
    under BF16 autocast round activations in BF16. Here they round in FP32, and the calibrated
    ranges stay: Adam changes a range by at most the learning rate per step, and activation ranges
    are between 1 and 15, so training cannot move them noticeably. The embeddings that are quantized
    stay as well, quantized once: half of the parameters of a small model, of which a batch reads a
    few rows. All embeddings keep their values; the other
    weights train, and SmoothQuant's factors.
    """
    storage = get_hook_storage(model)
    fast: dict[nn.Module, nn.Module] = {}
    replaced = []
    embeddings = {
        parameter: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if "embeddings." in name and parameter.requires_grad  # no projection behind them
    }
    for name, hooks in (*storage.pre_hooks.items(), *storage.post_hooks.items()):
        for key, quantizer in hooks.items():
            if not isinstance(quantizer, BaseQuantizer) or (
                quantizer.per_channel and not isinstance(quantizer, SymmetricQuantizer)
            ):
                continue
            if name.endswith("_embeddings/embedding/0__1"):
                table = model.get_submodule(name.removesuffix("/embedding/0__1").replace("/", "."))
                table.weight.data = quantizer.quantize(table.weight.data)
                replacement: nn.Module = nn.Identity()
            else:
                replacement = fast.setdefault(quantizer, _FastQuantizer(quantizer))
            hooks[key] = replacement
            replaced.append((hooks, key, quantizer))
    for parameter in embeddings:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for hooks, key, quantizer in replaced:
            hooks[key] = quantizer
        for parameter, values in embeddings.items():
            parameter.data = values
            parameter.requires_grad = True


class _FastQuantizer(nn.Module):
    """Fake quantization with a range that stays: per tensor, or per channel of a weight."""

    scale: torch.Tensor

    def __init__(self, quantizer: BaseQuantizer) -> None:
        super().__init__()
        low, high, scale, zero_point = quantizer.get_parameters_for_torch_fq()
        zero = int(zero_point.flatten()[0])  # of weights, which are symmetric: 0 in all channels
        self.levels = (low - zero, high - zero)
        scale = scale.detach()
        self.register_buffer(
            "scale", scale.reshape(quantizer.scale.shape) if quantizer.per_channel else scale
        )
        # What is outside its range gets no gradient. A weight's range is its channel's largest.
        self.limits = (
            None if quantizer.per_channel else tuple(float(scale * level) for level in self.levels)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
            values, self.scale, self.levels, self.limits
        )
        return result


class _FakeQuantize(torch.autograd.Function):
    """Rounded to a level in FP32; the gradient passes straight through, inside limits if any."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        scale: torch.Tensor,
        levels: tuple[int, int],
        limits: tuple[float, float] | None,
    ) -> torch.Tensor:
        ctx.limits = limits
        if limits is not None:
            ctx.save_for_backward(values)
        steps = values.float().div(scale).round_().clamp_(*levels)
        return steps.mul_(scale).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        if ctx.limits is not None:
            (values,) = ctx.saved_tensors
            gradient = torch.ops.aten.hardtanh_backward(gradient, values, *ctx.limits)
        return gradient, None, None, None


@dataclass(frozen=True, eq=False)
class QuantizedLinear:
    """A call of a linear layer whose weight is quantized.

    Attributes:
        operator: NNCF's name of the call.
        weight: the layer's own, not quantized, (out, in).
        quantizer: of that weight in this call, symmetric, one range a row.
    """

    operator: str
    weight: nn.Parameter
    quantizer: BaseQuantizer


def quantized_linears(model: PreTrainedModel, windows: WindowSet) -> list[QuantizedLinear]:
    """Every call of a linear layer whose weight is quantized: several of a layer in ALBERT.

    Args:
        windows: of which the first passes, so that each quantizer reads its weight.
    """
    quantizers = [
        (operator, hook)
        for name, hooks in get_hook_storage(model).pre_hooks.items()
        for operator, _, port in [name.rpartition("__")]
        if "/linear/" in operator and port == "1"
        for hook in hooks.values()
        if isinstance(hook, BaseQuantizer)
    ]
    weights: dict[BaseQuantizer, nn.Parameter] = {}

    # NNCF's name of a call leaves out the place in a ModuleList, and so does not tell the layer.
    def note(quantizer: BaseQuantizer, inputs: tuple[nn.Parameter]) -> None:
        weights[quantizer] = inputs[0]

    with hooked([quantizer.register_forward_pre_hook(note) for _, quantizer in quantizers]):
        torch_forward(model)(windows.pad([0]))
    return [
        QuantizedLinear(operator, weights[quantizer], quantizer)
        for operator, quantizer in quantizers
    ]


def strip(model: PreTrainedModel, windows: WindowSet) -> nn.Module:
    """Replace NNCF's quantizers by torch's own fake-quantize operators, which ONNX export knows.

    Args:
        windows: of which the first passes.
    """
    stripped: nn.Module = nncf.strip(
        model,
        do_copy=True,
        strip_format=nncf.StripFormat.NATIVE,
        example_input={key: torch.from_numpy(a) for key, a in windows.pad([0]).items()},
    )
    return stripped.eval()
