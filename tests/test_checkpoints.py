"""How much a model reads, where its tokenizer does not say: held against the model itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
)

from qa.checkpoints import copy_tokenizer, settle_checkpoint, torch_forward
from qa.errors import UserError
from qa.features import load_tokenizer

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}


@pytest.fixture
def unlimited(tmp_path: Path, encoder: Path) -> Path:
    """A folder with a tokenizer that names no limit."""
    copy_tokenizer(encoder, tmp_path)
    file = tmp_path / "tokenizer_config.json"
    options = json.loads(file.read_text())
    del options["model_max_length"]
    file.write_text(json.dumps(options))
    return tmp_path


@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig, MPNetConfig])
def test_a_tokenizer_without_a_limit_gets_the_models_own(
    unlimited: Path, kind: type[PretrainedConfig]
) -> None:
    config = kind(**SMALL, max_position_embeddings=40)
    config.save_pretrained(unlimited)
    settle_checkpoint(unlimited, "the model")
    reads = load_tokenizer(unlimited).model_max_length

    forward = torch_forward(AutoModelForQuestionAnswering.from_config(config).eval())

    def tokens(length: int) -> dict[str, np.ndarray]:
        ids = np.full((1, length), 7)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    assert len(forward(tokens(reads))[0][0]) == reads
    with pytest.raises((IndexError, RuntimeError)):
        forward(tokens(reads + 1))


def test_a_tokenizers_own_lower_limit_stays(unlimited: Path) -> None:
    file = unlimited / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 24}))
    BertConfig(**SMALL, max_position_embeddings=40).save_pretrained(unlimited)
    settle_checkpoint(unlimited, "the model")
    assert load_tokenizer(unlimited).model_max_length == 24


def test_relative_positions_set_no_limit(unlimited: Path) -> None:
    ModernBertConfig(**SMALL, pad_token_id=0).save_pretrained(unlimited)
    settle_checkpoint(unlimited, "the model")
    assert load_tokenizer(unlimited).model_max_length > 1e9


def test_a_config_of_no_possible_model_is_an_error(unlimited: Path) -> None:
    BertConfig(**SMALL | {"num_attention_heads": 5}).save_pretrained(unlimited)
    with pytest.raises(UserError, match=r"the model: config\.json: .*hidden size .* multiple"):
        settle_checkpoint(unlimited, "the model")
