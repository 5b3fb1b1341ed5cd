"""Parameters against the model and the processor that they are for.

What `qa.params` cannot tell, and a later stage would find out when DVC has removed its outputs.
Runs the model on a window or two, and never trains it.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from qa.checkpoints import torch_forward
from qa.errors import UserError, first_sentence
from qa.features import Tokenizer, make_windows, pad, padded_length
from qa.params import Params, Windows
from qa.processor import check_sessions, has_bf16
from qa.squad import Example
from qa.training import use_bf16


def check_machine(params: Params) -> None:
    """Check that the processor multiplies in the types that are asked for, and has the cores.

    Raises:
        UserError: it does not.
    """
    for section, answering in (("infer", params.infer), ("evaluate", params.evaluate)):
        if answering.precision == "bf16" and not has_bf16():
            raise UserError(
                f"params.yaml: {section}.precision: found 'bf16', which this processor lacks;"
                " set fp32"
            )
    for training in (params.finetune, params.train):
        use_bf16(training)
    check_sessions(params.infer.sessions)


def check_model(
    model: PreTrainedModel, tokenizer: Tokenizer, params: Params, *, has_head: bool
) -> None:
    """Check that a model can be trained and reads the windows.

    Args:
        has_head: whether its question-answering head is trained.

    Raises:
        UserError: it cannot.
    """
    params.finetune.epochs_for(has_head)
    check_windows(model, tokenizer, params.windows)


def check_windows(model: PreTrainedModel, tokenizer: Tokenizer, params: Windows) -> None:
    """Let a model read a short window and one as long as they may be.

    Not every tokenizer says how much its model reads, and not every one fits its model.

    Raises:
        UserError: it cannot, or `make_windows` finds the lengths wrong.
    """
    short, long = (
        make_windows([Example("", "a", context)], tokenizer, **params.model_dump())[0]
        for context in ("a", "a " * params.max_length)
    )
    length = padded_length(params.max_length)
    forward = torch_forward(model)
    try:
        forward(pad([short], tokenizer.pad_token_id))
    except Exception as error:  # as in `load_model`
        raise UserError(
            f"{model.name_or_path}: the model does not run on its tokenizer's tokens"
            f" ({type(error).__name__}: {first_sentence(error)}); save the two that belong together"
        ) from None
    try:
        forward(pad([long], tokenizer.pad_token_id, length))
    except Exception as error:
        raise UserError(
            f"params.yaml: windows.max_length: found {params.max_length}; this model does not read"
            f" the {length} tokens that it is padded to ({type(error).__name__}:"
            f" {first_sentence(error)}); lower it"
        ) from None
