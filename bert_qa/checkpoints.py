"""FP32 checkpoint folders: config, tokenizer and safetensors of a question-answering encoder.

Loads them for training and as a forward pass, saves them, and tells whether the head is trained.
The folders are this project's own; `bert_qa.intake` makes them of others.
Knows nothing of where they come from and nothing of quantization.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    PreTrainedModel,
)

from bert_qa.cpu import has_bf16
from bert_qa.errors import UserError, first_sentence
from bert_qa.logits import Forward
from bert_qa.tracing import make_traceable
from bert_qa.windows import WindowSet

# A bar for reading weights and one for writing them, done in a moment, among a stage's own lines.
transformers.logging.disable_progress_bar()

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
"""The tokenizer of a folder that this project wrote."""


def _keep_freed_memory() -> None:
    """Let the C library keep what tensors free, up to 1 GB.

    glibc gives large blocks back to the system at once, and the next layer has them zeroed page by
    page: up to a quarter of a forward pass in batches.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(option, 2**30)


_keep_freed_memory()


def load_model(
    folder: Path, *, dropout: bool, seed: int = 0, name: str | None = None
) -> tuple[PreTrainedModel, bool]:
    """Load a question-answering model in FP32 from safetensors.

    Attention is the eager kind: on CPU it trains faster than SDPA, and NNCF sees its products.

    Args:
        folder: a checkpoint that this project wrote.
        dropout: whether the model drops out while it trains, at the rates of its config.
        seed: of the random head that a checkpoint without one is given.
        name: what to call the folder in an error; its path if None.

    Returns:
        The model in evaluation mode, and whether the checkpoint brought a trained head.

    Raises:
        UserError: the folder holds no model that transformers can load for question answering,
            the weights are more or fewer than those of the config, or some are not numbers.
    """
    name = str(folder) if name is None else name
    with _loading(name):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not dropout:
        for key in config.to_dict():
            if key.endswith(("dropout", "dropout_prob")) and getattr(config, key):
                setattr(config, key, 0.0)
    torch.manual_seed(seed)
    with _loading(name):
        model, info = AutoModelForQuestionAnswering.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            ignore_mismatched_sizes=True,  # they are told of below, each with its name
            output_loading_info=True,
        )
    make_traceable(model)
    # Another task's head may be of more outputs than a start and an end: then it is a new one.
    encoder = f"{model.base_model_prefix}."
    mismatched = sorted(info["mismatched_keys"])
    for key, found, wanted in (each for each in mismatched if each[0].startswith(encoder)):
        raise UserError(
            f"{name}: {key} has the shape {tuple(found)}, and in the model of its config.json"
            f" {tuple(wanted)}; save the two that belong together"
        )
    missing = [key for key in info["missing_keys"] if key.startswith(encoder)]
    if missing:
        raise UserError(f"{name}: the checkpoint lacks {missing[0]}; it is not a BERT-like encoder")
    if further := _beyond_config(model, info["unexpected_keys"]):
        raise UserError(
            f"{name}: the checkpoint has {further[0]}, which the model of its config.json has not;"
            " save the two that belong together"
        )
    for key, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(
                f"{name}: {key} holds NaN or infinity; the model's training went wrong: use"
                " another checkpoint, or a lower learning rate"
            )
    return model.eval(), not (info["missing_keys"] or mismatched)


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each architecture has its own way to say that it cannot be
        raise UserError(
            f"{name}: not a question-answering model"
            f" ({type(error).__name__}: {first_sentence(error)})"
        ) from None


def _beyond_config(model: PreTrainedModel, unexpected: list[str]) -> list[str]:
    """Of the tensors that a model has no place for, those of the encoder.

    The others are heads of other tasks, with the pooler, which those tasks read.
    """
    prefix = f"{model.base_model_prefix}."
    # Older ones hold what the model makes itself, such as `position_ids`.
    made = {name.removeprefix(prefix) for name, _ in model.named_buffers()}
    parts = {part for part, _ in model.base_model.named_children()}
    return sorted(
        key
        for key in unexpected
        if key.removeprefix(prefix) not in made
        and (
            key.removeprefix(prefix).partition(".")[0] in parts
            or (key.startswith(prefix) and not key.startswith(f"{prefix}pooler."))
        )
    )


def load_config_model(folder: Path) -> PreTrainedModel:
    """The architecture that a folder's config describes, its weights still to be loaded."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model: PreTrainedModel = AutoModelForQuestionAnswering.from_config(
        config, trust_remote_code=False, dtype=torch.float32, attn_implementation="eager"
    )
    make_traceable(model)
    return model


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: Path) -> None:
    """Write config and safetensors into an existing folder, and the tokenizer of another folder.

    Args:
        tokenizer: a folder that this project wrote.
    """
    model.save_pretrained(folder, max_shard_size="1TB")  # one file, whatever the model
    copy_tokenizer(tokenizer, folder)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer of a folder that this project wrote into the existing folder `out`."""
    for file in TOKENIZER_FILES:
        shutil.copyfile(source / file, out / file)


def best_device() -> str:
    """`cuda` where there is one, or else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def can_bf16() -> bool:
    """Whether the device of `best_device` multiplies in BF16."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return has_bf16()


def runs_in_bf16(model: PreTrainedModel, windows: WindowSet) -> bool:
    """Whether a model computes a window under BF16 autocast; DeBERTa's first version does not."""
    batch = {
        key: torch.from_numpy(array).to(model.device) for key, array in windows.pad([0]).items()
    }
    training = model.training
    model.eval()  # without dropout, which would draw random numbers
    try:
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
            model(**batch)
    except RuntimeError:
        return False
    finally:
        model.train(training)
    return True


def torch_forward(model: torch.nn.Module) -> Forward:
    """The forward pass of a torch model, without gradients, as the engine takes it."""

    def forward(
        batch: dict[str, NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        device = next(model.parameters()).device
        with torch.no_grad():
            output = model(**{key: torch.from_numpy(a).to(device) for key, a in batch.items()})
        return output.start_logits.float().cpu().numpy(), output.end_logits.float().cpu().numpy()

    return forward
