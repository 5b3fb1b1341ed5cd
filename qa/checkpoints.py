"""FP32 checkpoint folders: config, tokenizer and safetensors of a question-answering encoder.

Loads them for training and as a forward pass, saves them, and tells whether the head is trained
and they can read the windows.
Knows nothing of where they come from and nothing of quantization.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from qa.errors import UserError, first_sentence
from qa.features import Tokenizer, make_windows, pad, padded_length
from qa.logits import Forward
from qa.params import Windows
from qa.squad import Example

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
)
CHECKPOINT_FILES = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER_FILES,
)
"""What makes a checkpoint, as patterns: config, safetensors and tokenizer, nothing pickled."""


def load_model(folder: Path, *, dropout: bool, seed: int = 0) -> tuple[PreTrainedModel, bool]:
    """Load a question-answering model in FP32 from safetensors.

    Attention is the eager kind: on CPU it trains faster than SDPA, and NNCF sees its products.

    Args:
        dropout: whether the model drops out while it trains, at the rates of its config.
        seed: of the random head that a checkpoint without one is given.

    Returns:
        The model in evaluation mode, and whether the checkpoint brought a trained head.

    Raises:
        UserError: the folder holds no model that transformers can load for question answering.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if not dropout:
            for key in config.to_dict():
                if key.endswith(("dropout", "dropout_prob")) and getattr(config, key):
                    setattr(config, key, 0.0)
        torch.manual_seed(seed)
        model, info = AutoModelForQuestionAnswering.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:  # each architecture has its own way to say that it cannot be
        raise UserError(
            f"{folder}: not a question-answering model"
            f" ({type(error).__name__}: {first_sentence(error)})"
        ) from None
    missing = [key for key in info["missing_keys"] if not key.startswith("qa_outputs")]
    if missing:
        raise UserError(
            f"{folder}: the checkpoint lacks {missing[0]}; it is not a BERT-like encoder"
        )
    return model.eval(), not info["missing_keys"]


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


def load_config_model(folder: Path) -> PreTrainedModel:
    """The architecture that a folder's config describes, its weights still to be loaded."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return AutoModelForQuestionAnswering.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: Path) -> None:
    """Write config and safetensors into an existing folder, and the tokenizer of another folder."""
    model.save_pretrained(folder, max_shard_size="1TB")  # one file, whatever the model
    copy_tokenizer(tokenizer, folder)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the files of a folder's tokenizer into the existing folder `out`, as they are."""
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, out / file.name)


def copy_checkpoint(source: Path, out: Path) -> None:
    """Copy the files of a checkpoint into the existing folder `out`, as they are.

    Raises:
        UserError: `source` is not a folder with a config and safetensors.
    """
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: no config.json; set model.folder to a checkpoint's folder")
    if not any(source.glob("model*.safetensors")):
        raise UserError(
            f"{source}: no model.safetensors; only safetensors are loaded: save the model anew"
        )
    for pattern in CHECKPOINT_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, out / file.name)


def settle_checkpoint(folder: Path, name: str) -> None:
    """Look into a checkpoint's files before the stages that need them do, and settle its tokenizer.

    The tokenizer is written anew as `qa.features.load_tokenizer` reads it: a tokenizer.json,
    whatever it came as, and the names of the model's inputs, which transformers keeps in classes.

    Args:
        name: what to call it in an error.

    Raises:
        UserError: the config is not that of a question-answering encoder, a tensor file is broken,
            or there is no fast tokenizer.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{name}: config.json: {first_sentence(error)}") from None
    # BERT and its kin are what fills masks as well as answering questions; GPT-2 and T5 are not.
    if (
        type(config) not in MODEL_FOR_QUESTION_ANSWERING_MAPPING
        or type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        or config.is_encoder_decoder
    ):
        raise UserError(
            f"{name}: config.json: model_type {config.model_type} is not a BERT-like encoder"
        )
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise UserError(
                f"{name}: {file.name} is not safetensors ({error}); download it again"
                " (with git: git lfs pull)"
            ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise UserError(
            f"{name}: no usable tokenizer ({first_sentence(error)}); save it with the model"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{name}: a slow tokenizer, without offsets; save the fast one")
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    tokenizer.save_pretrained(folder)


def torch_forward(model: torch.nn.Module) -> Forward:
    """The forward pass of a torch model, without gradients, as the engine wants it."""

    def forward(
        batch: dict[str, NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        device = next(model.parameters()).device
        with torch.no_grad():
            output = model(**{key: torch.from_numpy(a).to(device) for key, a in batch.items()})
        return output.start_logits.float().cpu().numpy(), output.end_logits.float().cpu().numpy()

    return forward
