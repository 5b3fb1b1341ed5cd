"""Folders that transformers 4 and 5 saved: models and tokenizers of both are taken in alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from benchmark.processes import in_peers
from bert_qa.checkpoints import load_model
from bert_qa.intake import build_checkpoint
from bert_qa.squad import read_questions
from bert_qa.windows import load_tokenizer
from tests.conftest import ROOT
from tests.peers import save_anew

SMALL = {
    "hidden_size": 32,
    "embedding_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 140,
}
EXAMPLES = read_questions(ROOT / "data/sample/train.json")[:40]
PAIRS = [(example.question, example.context[:300]) for example in EXAMPLES[:5]]
PAIRS += [("Où est-ce ?", "Zürich,  München - 北京。"), ("a <title> b", "<title>One</title>")]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {
    **dict.fromkeys(("bos_token", "cls_token"), "<s>"),
    **dict.fromkeys(("eos_token", "sep_token"), "</s>"),
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def bert(folder: Path, encoder: Path) -> None:
    shutil.copyfile(encoder / "vocab.txt", folder / "vocab.txt")
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def trained(
    folder: Path, made: tokenizers.Tokenizer, trainer: Any, kind: str, pair: tuple[str, str]
) -> None:
    texts = [text for example in EXAMPLES for text in (example.question, example.context)]
    made.train_from_iterator(texts, trainer)
    ids = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(
        single=pair[0], pair=pair[1], special_tokens=ids
    )
    made.save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": kind, "model_max_length": 128, **NAMES}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


ROBERTA = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")


def roberta(folder: Path, _: Path) -> None:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained(folder, made, trainer, "RobertaTokenizer", ROBERTA)


def xlm_roberta(folder: Path, _: Path) -> None:
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    trained(folder, made, trainer, "XLMRobertaTokenizer", ROBERTA)


def plain(folder: Path, encoder: Path) -> None:
    """A class of no model's name, as transformers 5 writes for many: `TokenizersBackend`."""
    xlm_roberta(folder, encoder)
    file = folder / "tokenizer_config.json"
    fields = {**json.loads(file.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(fields))


KINDS: list[tuple[Callable[[Path, Path], None], str]] = [
    (bert, "bert"),
    (bert, "electra"),
    (roberta, "roberta"),
    (xlm_roberta, "xlm-roberta"),
    (plain, "camembert"),
]


@pytest.mark.parametrize("saved_by", [4, 5])
@pytest.mark.parametrize(("tokenizer", "kind"), KINDS, ids=[kind for _, kind in KINDS])
def test_what_either_saved_is_taken_in(
    tokenizer: Callable[[Path, Path], None],
    kind: str,
    saved_by: int,
    encoder: Path,
    tmp_path: Path,
) -> None:
    source, theirs, lean = (tmp_path / name for name in ("source", "theirs", "lean"))
    for folder in (source, theirs, lean):
        folder.mkdir()
    tokenizer(source, encoder)
    config = {"model_type": kind, **SMALL, "pad_token_id": 0 if tokenizer is bert else 1}
    arguments = (source, theirs, config, PAIRS)
    ids = in_peers(save_anew, *arguments) if saved_by == 4 else save_anew(*arguments)
    version = json.loads((theirs / "config.json").read_text())["transformers_version"]
    assert version.startswith(f"{saved_by}.")
    assert transformers.__version__.startswith("5.")
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(theirs / file, lean / file)  # and no vocabulary, no map of special tokens
    for folder in (theirs, lean):
        base = tmp_path / f"base of {folder.name}"
        base.mkdir()
        build_checkpoint(folder, base, "theirs")
        backend = load_tokenizer(base).backend
        assert [backend.encode(*pair).ids for pair in PAIRS] == ids
        reader = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        assert [reader(*pair)["input_ids"] for pair in PAIRS] == ids
        model, has_head = load_model(base, dropout=False)
        assert has_head
        assert model.config.vocab_size > max(max(each) for each in ids)
