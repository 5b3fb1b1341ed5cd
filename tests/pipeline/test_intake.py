"""A stranger's checkpoint: what is read of it, what is refused, and that no more is passed on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertModel,
    DebertaV2ForQuestionAnswering,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaTokenizer,
)

from bert_qa.checkpoints import load_model
from bert_qa.errors import UserError
from bert_qa.intake import build_checkpoint
from bert_qa.squad import Example
from bert_qa.windows import load_tokenizer, make_windows
from tests.conftest import Project

BUILT = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
ESCAPE = "../../../../escaped"
TEXT = ("Where's Ada, née Byron?", "Ada LOVELACE lived in 東京 and London. [MASK]")


@pytest.fixture
def theirs(tmp_path: Path, tiny_model: Path) -> Path:
    """A checkpoint of a stranger, four folders down, to be spoilt."""
    folder = tmp_path / "a/b/c/theirs"
    shutil.copytree(tiny_model, folder)
    change(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    return folder


def build(theirs: Path) -> Path:
    """The checkpoint that is built of a folder."""
    out = theirs.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    build_checkpoint(theirs, out, "theirs")
    return out


def change(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; it need not be there."""
    content = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def change_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def make_hostile(folder: Path, templates: Any) -> None:
    """Put into a folder all that may run, or be written elsewhere."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        change(
            folder / file,
            chat_template=templates,
            auto_map={"AutoTokenizer": ["stranger.T", "stranger.T"]},
            tokenizer_file="/stranger/tokenizer.json",
            vocab_file=f"{ESCAPE}/vocab.txt",
            name_or_path=ESCAPE,
            processor_class="StrangerProcessor",
            extra_special_tokens={"stranger": "[SEP]"},
            init_inputs=[],
        )
    change(
        folder / "config.json",
        auto_map={"AutoConfig": "stranger.C"},
        custom_pipelines={"question-answering": {"impl": "stranger.P"}},
        quantization_config={"quant_method": "stranger"},
        attn_implementation="stranger/kernel",
        _attn_implementation="stranger/kernel",
        _attn_implementation_internal="stranger/kernel",
        use_kernels=True,
        _name_or_path=ESCAPE,
        dtype="stranger",
        torch_dtype="stranger",
        tokenizer_class="StrangerTokenizer",
        id2label={"0": "stranger"},
    )
    (folder / "chat_template.jinja").write_text("stranger", encoding="utf-8")
    (folder / "stranger.py").write_text("raise SystemExit('stranger')", encoding="utf-8")
    (folder / "added_tokens.json").write_text("{}", encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/stranger.jinja").write_text("stranger", encoding="utf-8")
    for name in ("tokenizer", "tokenizer_more", "vocab", "model-extra.safetensors"):
        (folder / name).mkdir()
    os.mkfifo(folder / "vocab.fifo")
    (folder / "tokenizer_loop.json").symlink_to("tokenizer_loop.json")


@pytest.mark.parametrize(
    "templates",
    [
        "stranger",
        {"default": "stranger", ESCAPE: "stranger"},
        [{"name": "default", "template": "stranger"}, {"name": ESCAPE, "template": "stranger"}],
    ],
)
def test_nothing_of_a_hostile_folder_is_passed_on(
    tmp_path: Path, theirs: Path, templates: Any
) -> None:
    clean = {file.name: file.read_bytes() for file in build(theirs).iterdir()}
    make_hostile(theirs, templates)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(theirs.parent)}
    built = {file.name: file.read_bytes() for file in build(theirs).iterdir()}
    assert built.keys() == BUILT
    assert built == clean
    after = {path for path in tmp_path.rglob("*") if not path.is_relative_to(theirs.parent)}
    assert after == before


def test_the_stage_writes_nothing_outside_the_project(
    project: Project, theirs: Path, tmp_path: Path
) -> None:
    make_hostile(theirs, {"default": "stranger", ESCAPE: "stranger"})
    project.set(model__name="folder", model__folder=str(theirs))
    before = {path for path in tmp_path.rglob("*") if ".git" not in path.parts}
    project.check("python", "-m", "stages.download_model")
    base = project.folder / "models/base"
    written = {path for path in tmp_path.rglob("*") if ".git" not in path.parts} - before
    assert {path for path in written if path.suffix != ".pyc" and path.name != "__pycache__"} == {
        base,
        *(base / name for name in BUILT),
    }


def test_the_same_folder_gives_the_same_bytes_however_it_is_stored(theirs: Path) -> None:
    whole = {file.name: file.read_bytes() for file in build(theirs).iterdir()}
    tensors = load_file(theirs / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        save_file(part, theirs / file, metadata={"format": "pt", "by": "a stranger"})
    change(theirs / "model.safetensors.index.json", weight_map=files, metadata={"total_size": 1})
    (theirs / "model.safetensors").unlink()
    # The cache of the hub's client is links to files elsewhere.
    os.rename(theirs / "config.json", theirs.parent / "elsewhere")
    (theirs / "config.json").symlink_to(theirs.parent / "elsewhere")
    assert {file.name: file.read_bytes() for file in build(theirs).iterdir()} == whole


def same_tokenizer(folder: Path, out: Path) -> None:
    """Compare what transformers reads of two folders."""
    original, built = (
        AutoTokenizer.from_pretrained(path, trust_remote_code=False) for path in (folder, out)
    )
    assert built(*TEXT) == original(*TEXT)
    assert built.special_tokens_map == {
        key: value
        for key, value in original.special_tokens_map.items()
        if key != "additional_special_tokens"
    }
    assert built.model_max_length == original.model_max_length
    assert built.model_input_names == original.model_input_names
    ids = original(*TEXT)["input_ids"]
    assert built.decode(ids, skip_special_tokens=True) == original.decode(
        ids, skip_special_tokens=True
    )
    assert load_tokenizer(out).backend.encode(*TEXT).ids == ids


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False},
        {"tokenizer_class": None, "model_max_length": 384, "model_input_names": ["input_ids"]},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
        {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": True},
        {"tokenizer_class": "BertModel"},
        {"tokenizer_class": "pipeline"},
        {"pad_token": {"content": "[PAD]", "lstrip": True, "__type": "AddedToken"}},
    ],
)
def test_the_tokenizer_reads_as_transformers_does(theirs: Path, fields: dict[str, Any]) -> None:
    change(theirs / "tokenizer_config.json", **fields)
    same_tokenizer(theirs, build(theirs))


def test_a_tokenizer_of_a_vocabulary_becomes_a_fast_one(theirs: Path, encoder: Path) -> None:
    (theirs / "tokenizer.json").unlink()
    shutil.copyfile(encoder / "vocab.txt", theirs / "vocab.txt")
    same_tokenizer(theirs, build(theirs))


def test_a_roberta_goes_all_the_way(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    words = tokenizers.ByteLevelBPETokenizer()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words.train_from_iterator(TEXT, vocab_size=300, special_tokens=tokens)
    theirs.mkdir()
    words.save_model(str(theirs))
    tokenizer = RobertaTokenizer(
        str(theirs / "vocab.json"), str(theirs / "merges.txt"), add_prefix_space=True
    )
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    RobertaForQuestionAnswering(config).save_pretrained(theirs)
    tokenizer.save_pretrained(theirs)
    assert "add_prefix_space" in (theirs / "tokenizer_config.json").read_text("utf-8")
    out = build(theirs)
    same_tokenizer(theirs, out)
    assert not load_tokenizer(out).has_token_types
    (theirs / "tokenizer.json").unlink()
    out = build(theirs)
    same_tokenizer(theirs, out)
    assert load_model(out, dropout=False)[1]


SMALL = {
    "vocab_size": 30522,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.mark.parametrize("kind", [BertModel, BertForPreTraining])
def test_heads_of_other_tasks_are_left_out(theirs: Path, kind: type[Any]) -> None:
    kind(BertConfig(**SMALL)).save_pretrained(theirs)
    prefix = "" if kind is BertModel else "bert."
    position_ids = {f"{prefix}embeddings.position_ids": torch.arange(512)}  # as old ones have them
    change_tensors(theirs, lambda tensors: tensors.update(position_ids))
    _, has_head = load_model(build(theirs), dropout=False)
    assert not has_head


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        (ModernBertForQuestionAnswering, True),
        (ModernBertForMaskedLM, False),
        (ModernBertForSequenceClassification, False),  # a head of the same name and shape
        (ModernBertModel, False),
    ],
)
def test_a_head_is_known_by_its_task(theirs: Path, kind: type[Any], trained: bool) -> None:
    kind(ModernBertConfig(**SMALL, pad_token_id=0)).save_pretrained(theirs)
    model, has_head = load_model(build(theirs), dropout=False)
    assert has_head == trained
    assert model.classifier.weight.shape == (2, 16)


def test_a_head_of_three_outputs_becomes_a_new_one(theirs: Path) -> None:
    change(theirs / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(3)})

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["qa_outputs.weight"] = torch.ones(3, 64)
        tensors["qa_outputs.bias"] = torch.ones(3)

    change_tensors(theirs, edit)
    model, has_head = load_model(build(theirs), dropout=False)
    assert not has_head
    assert model.qa_outputs.weight.shape == (2, 64)
    assert torch.isfinite(model.qa_outputs.weight).all()


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        # What the attention of DeBERTa reads, though the class of its config does not name it.
        (
            DebertaV2ForQuestionAnswering,
            {"position_buckets": 64, "norm_rel_ebd": "layer_norm", "share_att_key": True},
        ),
        (BertForQuestionAnswering, {"layer_norm_eps": 1e-7, "hidden_act": "relu"}),
    ],
)
def test_a_config_keeps_what_its_model_reads(
    theirs: Path, model: type[PreTrainedModel], fields: dict[str, Any]
) -> None:
    config = model.config_class(**SMALL, **fields, relative_attention=True, pos_att_type=["c2p"])
    model(config).save_pretrained(theirs)
    read = AutoConfig.from_pretrained(build(theirs), trust_remote_code=False)
    assert {key: getattr(read, key) for key in fields} == fields
    assert type(read) is model.config_class


def test_a_modernbert_of_transformers_4_stays_the_same_function(theirs: Path) -> None:
    config = ModernBertConfig(**SMALL, pad_token_id=0)
    ModernBertForQuestionAnswering(config).save_pretrained(theirs)
    fields = json.loads((theirs / "config.json").read_text(encoding="utf-8"))
    for key in ("layer_types", "rope_parameters"):
        fields.pop(key, None)
    fields |= {"global_rope_theta": 150_000.0, "local_rope_theta": 1234.0}
    fields |= {"global_attn_every_n_layers": 2, "num_hidden_layers": 2}
    (theirs / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    wanted = AutoConfig.from_pretrained(theirs, trust_remote_code=False)
    read = AutoConfig.from_pretrained(build(theirs), trust_remote_code=False)
    assert read.layer_types == wanted.layer_types == ["full_attention", "sliding_attention"]
    assert read.rope_parameters == wanted.rope_parameters
    assert "1234" in str(read.rope_parameters)


@pytest.mark.parametrize(
    ("kind", "segments"),
    [("bert", 2), ("electra", 2), ("albert", 2), ("albert", 1), ("roberta", 2)],
)
def test_segment_ids_go_to_a_model_that_knows_them(
    tmp_path: Path, encoder: Path, kind: str, segments: int
) -> None:
    """Whatever the class of the tokenizer says: those of transformers 4 and 5 do not agree."""
    for name in ("source", "base"):
        (tmp_path / name).mkdir()
    shutil.copyfile(encoder / "tokenizer.json", tmp_path / "source/tokenizer.json")
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")
    }
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special}
    if kind == "roberta":  # what its own config says goes before
        fields["model_input_names"] = ["input_ids", "attention_mask"]
    (tmp_path / "source/tokenizer_config.json").write_text(json.dumps(fields))
    sizes = {**SMALL, "embedding_size": 16, "type_vocab_size": segments}
    config = AutoConfig.for_model(kind, **sizes)
    model = AutoModelForQuestionAnswering.from_config(config, trust_remote_code=False)
    model.save_pretrained(tmp_path / "source")
    build_checkpoint(tmp_path / "source", tmp_path / "base", "theirs")
    tokenizer = load_tokenizer(tmp_path / "base")
    assert tokenizer.has_token_types == (segments == 2 and kind != "roberta")
    if tokenizer.has_token_types:
        (window,) = make_windows(
            [Example("", "a", "b")], tokenizer, max_length=16, doc_stride=2, max_question_length=8
        )
        assert window.token_type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"num_hidden_layers": 1}, "has bert.encoder.layer.1.attention.output.Lay"),
        ("config.json", {"num_hidden_layers": 3}, "lacks bert.encoder.layer.2"),
        ("config.json", {"is_decoder": True}, "config.json: is_decoder is set; it is not a BERT"),
        ("config.json", {"model_type": ["bert"]}, "model_type ['bert'] is not a BERT-like"),
        ("config.json", {"model_type": "bart"}, "model_type 'bart' is not a BERT-like encoder"),
        ("config.json", {"vocab_size": "30522"}, "Field 'vocab_size' expected int, got str"),
        ("config.json", {"vocab_size": 30000}, "has the number 30521; the model of config.json"),
        ("config.json", {"hidden_size": None}, "Field 'hidden_size' expected int, got NoneType"),
        ("config.json", {"hidden_act": "x"}, "not a question-answering model (KeyError"),
        ("tokenizer_config.json", {"do_lower_case": "yes"}, "do_lower_case: found 'yes'; it must"),
        (
            "tokenizer_config.json",
            {"model_max_length": float("inf")},
            "model_max_length: found inf",
        ),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length: found -1"),
        ("tokenizer_config.json", {"pad_token": 0}, "pad_token: found 0; it must be str or dict"),
        ("tokenizer_config.json", {"pad_token": "[FILL]"}, "token '[FILL]' has the number 30522"),
        ("special_tokens_map.json", {"cls_token": ["[CLS]"]}, "cls_token: found ['[CLS]']; it m"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    theirs: Path, file: str, changes: dict[str, Any], says: str
) -> None:
    change(theirs / file, **changes)
    refused(theirs, says)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "found a list, not an object"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_what_is_not_json_is_refused_in_one_line(
    theirs: Path, file: str, text: bytes, says: str
) -> None:
    (theirs / file).write_bytes(text)
    refused(theirs, f"{file}: {says}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(theirs: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.encoder.layer.1.output.dense.weight"][3, 4] = value

    change_tensors(theirs, spoil)
    refused(theirs, "bert.encoder.layer.1.output.dense.weight holds NaN or infinity")


def test_tensors_that_the_model_has_no_place_for_are_refused(theirs: Path) -> None:
    further = {"bert.encoder.layer.0.lora_A.weight": torch.zeros(2, 2)}
    change_tensors(theirs, lambda tensors: tensors.update(further))
    refused(theirs, "has bert.encoder.layer.0.lora_A.weight, which the model of its config.json")


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
def test_a_truncated_checkpoint_is_refused(theirs: Path, kept: int) -> None:
    weights = theirs / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    refused(theirs, "model.safetensors is not safetensors (")


@pytest.mark.parametrize(
    "shards",
    [
        None,
        {},
        {"a": "model-00001-of-00001.safetensors"},  # not there
        {"a": "../model.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "model-00002-of-00002.safetensors"},  # a folder
        {"a": 1},
    ],
)
def test_an_index_names_files_of_its_folder(theirs: Path, shards: Any) -> None:
    os.rename(theirs / "model.safetensors", theirs.parent / "model.safetensors")
    (theirs / "model-00002-of-00002.safetensors").mkdir()
    change(theirs / "model.safetensors.index.json", weight_map=shards)
    refused(theirs, "is no tensor file of this folder; download it again")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("instead", ["nothing", "a folder", "a pipe"])
def test_a_file_that_is_not_there_is_named(theirs: Path, missing: str, instead: str) -> None:
    (theirs / missing).unlink()
    if instead == "a folder":
        (theirs / missing).mkdir()
    if instead == "a pipe":
        os.mkfifo(theirs / missing)
    refused(theirs, f"no {missing}")


def test_a_tokenizer_that_cannot_pad_is_refused(theirs: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(theirs / "tokenizer.json"))
    tokenizer.save_pretrained(theirs)
    refused(theirs, "tokenizer_config.json: no pad_token")


def refused(theirs: Path, says: str) -> None:
    """Check that a folder is refused in one line, and nothing left but what was being written."""
    before = sorted(theirs.parent.rglob("*"))
    with pytest.raises(UserError) as error:
        build(theirs)
    message = str(error.value)
    assert message.startswith("theirs: ")
    assert says in message
    assert "\n" not in message
    shutil.rmtree(theirs.parent / "out")
    assert sorted(theirs.parent.rglob("*")) == before
