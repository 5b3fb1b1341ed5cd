"""transformers' models, changed so that `torch.onnx.export` can trace what they compute.

A mask of attention is made by code that takes a traced length, a tensor, for something else; and
DeBERTa's positions by scripted functions, whose branches reach the graph. Knows nothing of
quantizers and nothing of ONNX itself.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import PreTrainedModel, masking_utils
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function


def make_traceable(model: PreTrainedModel) -> None:
    """Let a model with eager attention have masks of `row_mask`, and no scripted functions.

    For all models of its architecture in this process, and before quantizers are put in: they are
    told apart by counting the operators that they stand at.
    """
    ALL_MASK_ATTENTION_FUNCTIONS.register("eager", row_mask)
    module = sys.modules[type(model).__module__]
    for name, function in list(vars(module).items()):
        if isinstance(function, torch.jit.ScriptFunction):
            scripted: Any = function
            setattr(module, name, scripted._torchdynamo_inline)  # what it was made of


def row_mask(
    *,
    q_length: Any,
    mask_function: Any,
    attention_mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    **others: Any,
) -> torch.Tensor | None:
    """A mask to add to attention scores, as transformers' `eager_mask` but for its shape.

    Args:
        q_length: tokens of the queries, an int or, while a model is traced, a scalar tensor.
        mask_function: which tokens see which; where all see all, the mask is the same for each.
        attention_mask: bool (windows, length), false for padding.

    Returns:
        Float (windows, 1, 1, length), 0 or the lowest number; of windows that see a part only
        (windows, 1, length, length).
    """
    if mask_function is bidirectional_mask_function and attention_mask is not None:
        # By `where`: OpenVINO takes booleans that are subtracted and multiplied for INT8 weights.
        lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=attention_mask.device)
        return torch.where(attention_mask[:, None, None, :], torch.zeros_like(lowest), lowest)
    if isinstance(q_length, torch.Tensor) and q_length.ndim == 0:
        q_length = torch.arange(q_length)  # type: ignore[call-overload]  # traced, and right
    mask: torch.Tensor | None = masking_utils.eager_mask(
        q_length=q_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        dtype=dtype,
        **others,
    )
    return mask
