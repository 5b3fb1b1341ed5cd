"""Encoders with a BERT's weights, which `make graft` trains on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.logits import relative_rms, run_windows
from bert_qa.squad import read_questions
from bert_qa.windows import make_windows
from scripts.graft_encoder import graft
from tests.conftest import ROOT


@pytest.mark.parametrize("kind", ["roberta", "deberta-v2"])
def test_a_graft_answers_as_the_bert_does(kind: str, tiny_model: Path, tokenizer: Any) -> None:
    """But for DeBERTa's relative positions, which begin at random."""
    bert, _ = load_model(tiny_model, dropout=False)
    grafted = graft(bert, kind)
    assert grafted.config.model_type == kind
    examples = read_questions(ROOT / "data/sample/train.json")[:6]
    windows = make_windows(
        examples, tokenizer, max_length=96, doc_stride=16, max_question_length=32
    )
    before = run_windows(torch_forward(bert), windows)
    if kind == "deberta-v2":
        grafted.deberta.encoder.rel_embeddings.weight.data.zero_()
    after = run_windows(torch_forward(grafted), windows)
    assert relative_rms(after, before) < 1e-3
