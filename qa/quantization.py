"""NNCF: an FP32 model to a fake-quantized one, to and from disk, and to plain quantized operators.

`calibrate` inserts quantizers whose ranges come from real windows; the model it returns trains as
any other and its quantizers with it. Knows nothing of the training loop and nothing of ONNX.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import nncf
import torch
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
)
from nncf.torch import get_config, load_from_config
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from qa.checkpoints import WEIGHTS_FILE, load_config_model
from qa.errors import UserError
from qa.features import Window, pad
from qa.params import Train

nncf.set_log_level(logging.ERROR)

QUANTIZATION_FILE = "nncf.json"


def calibrate(
    model: PreTrainedModel, windows: Sequence[Window], pad_token_id: int, params: Train
) -> PreTrainedModel:
    """Insert INT8 quantizers, their ranges taken from `windows`.

    Weights are quantized per channel and symmetrically; `params.preset` says whether activations
    are symmetric too (`performance`) or not (`mixed`). NNCF's TRANSFORMER model type keeps
    soft-max, layer normalization and GELU in floating point. SmoothQuant moves the outliers of
    activations into the weights first (Xiao et al., 2022); an alpha of -1 leaves it out.

    Args:
        windows: calibration set, one forward pass each.

    Returns:
        A fake-quantized model, trainable, its quantizers' ranges included.
    """
    items = [
        {key: tensor.to(model.device) for key, tensor in _tensors(window, pad_token_id).items()}
        for window in windows
    ]
    quantized: PreTrainedModel = nncf.quantize(
        model,
        nncf.Dataset(items),
        preset=nncf.QuantizationPreset(params.preset),
        subset_size=len(items),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix(params.overflow_fix),
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=params.smooth_quant_alpha),
        ),
    )
    # The query, key and value layers read one tensor through one quantizer under three names: tied
    # weights, as transformers calls them. Said so, a Trainer checkpoint keeps one copy.
    quantized._dynamic_tied_weights_keys = [r"^__nncf_hooks\."]
    return quantized


def save_quantized(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write a fake-quantized model into an existing folder.

    Config and tokenizer as in any checkpoint, the tensors as safetensors, and NNCF's description of
    the quantizers as JSON.
    """
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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
    except FileNotFoundError:
        raise UserError(f"{folder}: no {QUANTIZATION_FILE} in it; run `dvc repro train`") from None
    model = load_from_config(load_config_model(folder), config)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.eval()


def strip(model: PreTrainedModel, example: Window, pad_token_id: int) -> nn.Module:
    """Replace NNCF's quantizers by torch's own fake-quantize operators, which ONNX export knows."""
    stripped: nn.Module = nncf.strip(
        model,
        do_copy=True,
        strip_format=nncf.StripFormat.NATIVE,
        example_input=_tensors(example, pad_token_id),
    )
    return stripped.eval()


def _tensors(window: Window, pad_token_id: int) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in pad([window], pad_token_id).items()}
