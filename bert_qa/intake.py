"""A stranger's checkpoint, from a folder or the hub, made into one of this project's.

No file is passed on. Each is read for the fields that this project knows, and written anew: what
else stood there, code, templates and paths among it, ends there (CVE-2026-9856 wrote files through
the names of chat templates, CVE-2026-4372 ran code that a config named).
"""

from __future__ import annotations

import inspect
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from bert_qa.checkpoints import TOKENIZER_FILES, WEIGHTS_FILE, load_model
from bert_qa.errors import UserError, first_sentence, shown

INDEX_FILE = "model.safetensors.index.json"

VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
"""What a stranger's tokenizer is read from, in the order of preference."""

CONFIG_FIELDS = frozenset(
    {
        "attention_head_size",
        "cls_dropout",
        "conv_act",
        "conv_groups",
        "conv_kernel_size",
        "embedding_size",
        "global_attn_every_n_layers",
        "global_rope_theta",
        "head_dim",
        "local_rope_theta",
        "norm_rel_ebd",
        "pooler_hidden_size",
        "position_buckets",
        "rope_scaling",
        "rope_theta",
        "share_att_key",
        "talking_head",
    }
)
"""What models read of a config though its class does not name it: much of DeBERTa's, and what
transformers 4 wrote for ModernBERT."""

TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
FLAGS = (
    "add_prefix_space",
    "clean_text",
    "clean_up_tokenization_spaces",
    "do_lower_case",
    "keep_accents",
    "remove_space",
    "split_by_punct",
    "strip_accents",
    "tokenize_chinese_chars",
    "trim_offsets",
)
"""What the classes of tokenizers set themselves up by."""

SPECIAL_TOKENS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(TOKENS, (str, dict)),
    "additional_special_tokens": (list,),
}
TOKENIZER_FIELDS: dict[str, tuple[type, ...]] = {
    "tokenizer_class": (str,),
    "model_max_length": (int, float),
    "model_input_names": (list,),
    "added_tokens_decoder": (dict,),
    **dict.fromkeys(FLAGS, (bool,)),
}
"""What is read of a stranger's tokenizer_config.json, beside `SPECIAL_TOKENS`."""

BERT_FLAGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
    "clean_text": "clean_text",
}
"""Flags of a tokenizer_config.json, and what the tokenizers library calls them."""

MODEL_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def is_checkpoint_file(name: str) -> bool:
    """Whether `build_checkpoint` may read a file of this name; nothing pickled, no code."""
    tokenizer = {file for files in VOCABULARIES for file in files}
    return (
        name in {"config.json", WEIGHTS_FILE, INDEX_FILE, *TOKENIZER_FILES, *tokenizer}
        or name in {"special_tokens_map.json", "added_tokens.json"}
        or re.fullmatch(r"model-\d+-of-\d+\.safetensors", name) is not None
    )


def build_checkpoint(source: Path, out: Path, name: str) -> None:
    """Build a checkpoint in the existing folder `out` from a stranger's folder, and try it.

    Args:
        name: what to call `source` in an error.

    Raises:
        UserError: the config describes no question-answering encoder, the weights do not fit it,
            are not safetensors or not finite, or no fast tokenizer belongs to them.
    """
    transformers.logging.set_verbosity_error()  # what is to be said of the folder, errors say
    config = _read_config(source, name)
    tensors = _without_other_head(_read_tensors(source, name), config, source, name)
    config.save_pretrained(out)
    save_file(tensors, out / WEIGHTS_FILE, metadata={"format": "pt"})
    build_tokenizer(source, out, name)
    load_model(out, dropout=False, name=name)


def build_tokenizer(source: Path, out: Path, name: str) -> None:
    """Build `TOKENIZER_FILES` in the existing folder `out` from a stranger's tokenizer.

    They are what `bert_qa.windows.load_tokenizer` and `transformers.AutoTokenizer` read: the
    tokenizer as the tokenizers library serializes it, and the names and tokens that transformers
    keeps in classes.

    Args:
        source: folder with a config and any of `VOCABULARIES`.
        name: what to call it in an error.

    Raises:
        UserError: there is no fast tokenizer, it does not pad, or the model of the config lacks
            embeddings for its tokens.
    """
    config = _read_config(source, name)
    tokenizer = _read_tokenizer(source, config, name)
    if tokenizer.pad_token is None:
        raise UserError(
            f"{name}: tokenizer_config.json: no pad_token; name the token that fills up shorter"
            " questions, such as [PAD]"
        )
    backend = _backend(source, tokenizer)
    backend.no_padding()  # some are saved with it; `bert_qa.windows` pads and cuts
    backend.no_truncation()
    largest = max(backend.get_vocab(with_added_tokens=True).values())
    if largest >= config.vocab_size:
        raise UserError(
            f"{name}: tokenizer.json: token {backend.id_to_token(largest)!r} has the number"
            f" {largest}; the model of config.json has embeddings for numbers below"
            f" {config.vocab_size}: save the two that belong together"
        )
    reads = tokenizer.model_max_length
    if not 1 <= reads < math.inf:
        raise UserError(f"{name}: tokenizer_config.json: model_max_length: found {reads}")
    fields = {
        # The class that takes tokenizer.json as it is; those of a model's name build the tokenizer
        # anew, in transformers 5 from the vocabulary alone.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(reads),
        "model_input_names": _inputs(source, backend, config, name),
        **{key: str(token) for key in TOKENS if (token := getattr(tokenizer, key))},
    }
    backend.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(
        json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _read_config(source: Path, name: str) -> PretrainedConfig:
    """The config of a stranger's folder: the fields that a class of transformers defines."""
    if not (source / "config.json").is_file():
        raise UserError(f"{name}: no config.json; it is not a checkpoint")
    fields = _read_json(source / "config.json", name)
    model_type = fields.get("model_type")
    kind = CONFIG_MAPPING[model_type] if model_type in list(CONFIG_MAPPING.keys()) else None
    # BERT and its kin are what fills masks as well as answering questions; GPT-2 and T5 are not.
    if (
        kind is None
        or kind not in MODEL_FOR_QUESTION_ANSWERING_MAPPING
        or kind not in MODEL_FOR_MASKED_LM_MAPPING
        or kind().is_encoder_decoder
    ):
        raise UserError(
            f"{name}: config.json: model_type {shown(model_type)} is not a BERT-like encoder"
        )
    for key in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        if fields.get(key):
            raise UserError(f"{name}: config.json: {key} is set; it is not a BERT-like encoder")
    # What every config has says how to compute and what to return, not what the model is.
    own = inspect.signature(kind).parameters.keys() - inspect.signature(PretrainedConfig).parameters
    known = {*own, *kind.attribute_map, *CONFIG_FIELDS}
    try:
        config: PretrainedConfig = kind.from_dict({key: fields[key] for key in known & {*fields}})
    except Exception as error:  # each class checks in its own way
        raise UserError(f"{name}: config.json: {first_sentence(error)}") from None
    return config


def _read_tensors(source: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a stranger's folder, of one file or of those that its index names."""
    if (source / WEIGHTS_FILE).is_file():
        files = [WEIGHTS_FILE]
    elif (source / INDEX_FILE).is_file():
        shards = _read_json(source / INDEX_FILE, name).get("weight_map")
        files = sorted({str(file) for file in shards.values()} if isinstance(shards, dict) else ())
        for file in files or ["weight_map"]:
            if not is_checkpoint_file(file) or not (source / file).is_file():
                raise UserError(
                    f"{name}: {INDEX_FILE}: {file!r} is no tensor file of this folder; download"
                    " it again"
                )
    else:
        raise UserError(
            f"{name}: no {WEIGHTS_FILE}; only safetensors are loaded: save the model anew"
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(source / file)
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{name}: {file} is not safetensors ({first_sentence(error)}); download it again"
                " (with git: git lfs pull)"
            ) from None
    return tensors


def _without_other_head(
    tensors: dict[str, torch.Tensor], config: PretrainedConfig, source: Path, name: str
) -> dict[str, torch.Tensor]:
    """The tensors of a stranger's folder without a classifier's head that could pass for ours.

    ModernBERT's heads of two classes, and of a start and an end, have one name and one shape.
    """
    tasks = _read_json(source / "config.json", name).get("architectures")
    if not isinstance(tasks, list) or not any("Classification" in str(task) for task in tasks):
        return tensors
    try:
        with torch.device("meta"):
            model = AutoModelForQuestionAnswering.from_config(config, trust_remote_code=False)
    except Exception:  # `load_model` says why it cannot be
        return tensors
    encoder = f"{model.base_model_prefix}."
    outputs = {
        key
        for key, parameter in model.named_parameters()
        if not key.startswith(encoder) and len(parameter) == config.num_labels
    }
    return {key: tensor for key, tensor in tensors.items() if key not in outputs}


def _read_tokenizer(source: Path, config: PretrainedConfig, name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a stranger's folder, read from copies that hold what is known."""
    vocabulary = next(
        (files for files in VOCABULARIES if all((source / file).is_file() for file in files)), None
    )
    if vocabulary is None:
        raise UserError(
            f"{name}: no tokenizer.json, and no vocab.txt that one could be made from; save the"
            " fast tokenizer with the model"
        )
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        for file in vocabulary:
            shutil.copyfile(source / file, copy / file)
        known = {
            "tokenizer_config.json": TOKENIZER_FIELDS | SPECIAL_TOKENS,
            "special_tokens_map.json": SPECIAL_TOKENS,
            "added_tokens.json": None,
        }
        for file, kinds in known.items():
            if (source / file).is_file():
                fields = _read_json(source / file, name)
                if kinds is not None:
                    fields = _fields(fields, kinds, f"{name}: {file}")
                (copy / file).write_text(json.dumps(fields), encoding="utf-8")
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                copy, config=config, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise UserError(
                f"{name}: no usable tokenizer ({first_sentence(error)}); save it with the model"
            ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{name}: a slow tokenizer, without offsets; save the fast one")
    return tokenizer


def _backend(source: Path, tokenizer: PreTrainedTokenizerFast) -> tokenizers.Tokenizer:
    """What tokenizes: `tokenizer.json` where there is one, else what transformers built.

    Of `tokenizer.json` transformers 5 takes the vocabulary alone, for classes of a model's name,
    and lets the class say how text is split; transformers 4 took all, but for the flags.
    """
    if not (source / "tokenizer.json").is_file():
        return tokenizer.backend_tokenizer
    backend = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    for token in (token for _, token in sorted(tokenizer.added_tokens_decoder.items())):
        if backend.token_to_id(token.content) is None:
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    # A class of no model's name has none.
    flags = {} if type(tokenizer) is PreTrainedTokenizerFast else tokenizer.init_kwargs
    if isinstance(backend.normalizer, BertNormalizer):
        for flag, name in BERT_FLAGS.items():
            if flag in flags:
                setattr(backend.normalizer, name, flags[flag])
    if isinstance(backend.pre_tokenizer, ByteLevel) and "add_prefix_space" in flags:
        backend.pre_tokenizer.add_prefix_space = flags["add_prefix_space"]
    return backend


def _inputs(
    source: Path, backend: tokenizers.Tokenizer, config: PretrainedConfig, name: str
) -> list[str]:
    """What the model is given: of what the tokenizer makes, what the model reads.

    Segment ids where the tokenizer tells a question from its context by them, unless its own
    config says otherwise: the classes of transformers 4 and 5 do not agree which have them.
    """
    model = MODEL_FOR_QUESTION_ANSWERING_MAPPING[type(config)]
    reads = set(inspect.signature(model.forward).parameters)
    if getattr(config, "type_vocab_size", 2) < 2 or 1 not in backend.encode("a", "a").type_ids:
        reads.discard("token_type_ids")
    file = source / "tokenizer_config.json"
    said = _read_json(file, name).get("model_input_names") if file.is_file() else None
    return [key for key in MODEL_INPUTS if key in reads and key in (said or MODEL_INPUTS)]


def _fields(
    fields: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], where: str
) -> dict[str, Any]:
    """Of what a stranger wrote, the fields that are known, each of its kind; null is none."""
    found = {key: fields[key] for key in kinds if fields.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, kinds[key]):
            wanted = " or ".join(kind.__name__ for kind in kinds[key])
            raise UserError(f"{where}: {key}: found {shown(value)}; it must be {wanted}")
    return found


def _read_json(file: Path, name: str) -> dict[str, Any]:
    """A JSON object that a stranger wrote."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: {file.name}: not JSON ({first_sentence(error)})") from None
    if not isinstance(value, dict):
        raise UserError(f"{name}: {file.name}: found a {type(value).__name__}, not an object")
    return value
