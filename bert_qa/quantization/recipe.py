"""The quantization recipe: an FP32 model to a calibrated INT8 one, step by step.

Knows the order of the steps, which have modules of their own, and leaves out those that the model's
architecture does not suit. The calibrate stage runs it, and `bert_qa.probe` on a small copy.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from bert_qa.errors import reading
from bert_qa.files import write_json
from bert_qa.params import Calibrate
from bert_qa.quantization.channel_shifting import ChannelShifting
from bert_qa.quantization.channel_splitting import ChannelSplitting
from bert_qa.quantization.gptq import round_weights
from bert_qa.quantization.nncf_model import calibrate, save_quantized
from bert_qa.quantization.observing import Change, change
from bert_qa.quantization.overflow_fix import widen_ranges
from bert_qa.windows import WindowSet

RECIPE_FILE = "recipe.json"
"""In the folder of a calibrated model: the parameters with the steps that ran."""


def quantize(
    model: PreTrainedModel, windows: WindowSet, params: Calibrate
) -> tuple[PreTrainedModel, Calibrate]:
    """Make a fake-quantized INT8 model of an FP32 one, which is changed by it.

    Args:
        windows: calibration set.

    Returns:
        The fake-quantized model, trainable, and the parameters; where the architecture does not
        suit a step, with that step turned off.
    """
    changes: dict[str, Change] = {}
    if params.shift_channels:
        changes["shift_channels"] = ChannelShifting(model, windows)
    if params.split_channels:
        changes["split_channels"] = ChannelSplitting(model, windows, params.split_channels)
    found = change(model, windows, list(changes.values())) if changes else []
    none = {
        key: type(getattr(params, key))(0)
        for key, places in zip(changes, found, strict=True)
        if not places
    }
    quantized = calibrate(model, windows, params)
    if params.overflow_fix:
        widen_ranges(quantized, windows[:1])
    if params.rounding == "gptq" and not round_weights(quantized, windows):
        none["rounding"] = "nearest"
    return quantized, params.model_copy(update=none)


def left_out(asked: Calibrate, applied: Calibrate) -> list[str]:
    """The steps that did not suit the model, by their keys in the section `calibrate`."""
    return [key for key, value in applied if value != getattr(asked, key)]


def save(folder: Path, model: PreTrainedModel, applied: Calibrate, tokenizer: Path) -> None:
    """Write a model that `quantize` made into an existing folder, with what was applied to it.

    Args:
        tokenizer: a folder with the tokenizer.
    """
    save_quantized(folder, model, tokenizer)
    write_json(folder / RECIPE_FILE, applied.model_dump())


def read_applied(folder: Path) -> Calibrate:
    """The parameters as they were applied to the model in a folder that `save` wrote.

    Raises:
        UserError: the folder has none, or they are spoilt.
    """
    file = folder / RECIPE_FILE
    with reading(file, "run `dvc repro calibrate`"):
        return Calibrate.model_validate_json(file.read_text(encoding="utf-8"))
