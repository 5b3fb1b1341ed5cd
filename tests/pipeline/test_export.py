"""From torch to ONNX to answers, on a tiny model: the same model all the way."""

from __future__ import annotations

import collections
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nncf.torch.function_hook import get_hook_storage
from onnx import numpy_helper
from transformers import PreTrainedModel

from benchmark.processes import in_peers
from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.engine import Engine
from bert_qa.errors import UserError
from bert_qa.export import check_same, describe, relative_difference, to_onnx, write_folder
from bert_qa.files import hash_file
from bert_qa.logits import run_windows
from bert_qa.params import Calibrate, Decoding, Windows
from bert_qa.quantization.nncf_model import (
    calibrate,
    fast_quantizers,
    load_quantized,
    save_quantized,
    strip,
)
from bert_qa.quantization.overflow_fix import widen_ranges
from bert_qa.sessions import onnx_forward
from bert_qa.squad import read_questions
from bert_qa.windows import WindowSet, make_windows
from tests.conftest import ROOT
from tests.peers import pipeline_answers

WINDOWS = Windows(max_length=128, doc_stride=32, max_question_length=32)
DECODING = Decoding(
    max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
)
CALIBRATE = Calibrate(
    examples=8,
    seed=0,
    preset="mixed",
    quantize_attention=True,
    shift_channels=False,
    split_channels=0,
    smooth_quant_alpha=0.95,
    overflow_fix=True,
    rounding="nearest",
)
EXAMPLES = read_questions(ROOT / "data/sample/validation.json")[:12]


@pytest.fixture(scope="module")
def windows(tokenizer: Any) -> WindowSet:
    return make_windows(EXAMPLES, tokenizer, **WINDOWS.model_dump())


@pytest.fixture(scope="module")
def quantized(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    windows: WindowSet,
) -> Path:
    folder = tmp_path_factory.mktemp("qat")
    save_quantized(folder, calibrated(tiny_model, windows), tiny_model)
    return folder


def calibrated(folder: Path, windows: WindowSet) -> PreTrainedModel:
    model = calibrate(load_model(folder, dropout=False)[0], windows[:8], CALIBRATE)
    widen_ranges(model, windows)
    return model


@pytest.fixture(scope="module")
def onnx_folder(
    tmp_path_factory: pytest.TempPathFactory, quantized: Path, windows: WindowSet
) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    model = load_quantized(quantized)
    graph = to_onnx(strip(model, windows), windows[:2], {"made_from": "a test"})
    write_folder(folder, graph, quantized)
    return folder


def test_a_quantized_model_comes_back_as_it_was(
    tiny_model: Path, quantized: Path, windows: WindowSet
) -> None:
    before = run_windows(torch_forward(calibrated(tiny_model, windows)), windows)
    after = run_windows(torch_forward(load_quantized(quantized)), windows)
    assert all(np.array_equal(a.start, b.start) for a, b in zip(before, after, strict=True))
    plain, _ = load_model(tiny_model, dropout=False)
    fp32 = run_windows(torch_forward(plain), windows)
    assert not np.array_equal(fp32[0].start, after[0].start)


def test_a_quantized_model_is_saved_in_the_same_bytes(tmp_path: Path, quantized: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_quantized(tmp_path / name, load_quantized(quantized), quantized)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


@pytest.mark.fault("{file} of a quantized model, cut off")
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "nncf.json"])
@pytest.mark.parametrize("kept", [None, 0, 100, -1])
def test_a_truncated_quantized_model_is_one_line(
    tmp_path: Path, quantized: Path, file: str, kept: int | None
) -> None:
    folder = tmp_path / "ptq"
    shutil.copytree(quantized, folder)
    if kept is None:
        (folder / file).unlink()
    else:
        content = (folder / file).read_bytes().rstrip()  # the JSON ends with a line feed
        (folder / file).write_bytes(content[:kept])
    with pytest.raises(UserError, match="run `dvc repro`") as error:
        load_quantized(folder)
    assert str(error.value).startswith(str(folder))


def test_fast_quantizers_compute_the_same_and_give_place(
    quantized: Path, windows: WindowSet
) -> None:
    """The fast quantizers beside NNCF's: the same steps, but for ties in rounding."""
    model = load_quantized(quantized)
    names = list(model.state_dict())
    before = run_windows(torch_forward(model), windows[:4])
    with fast_quantizers(model):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        inside = run_windows(torch_forward(model), windows[:4])
    after = run_windows(torch_forward(model), windows[:4])
    for a, b, c in zip(before, inside, after, strict=True):
        assert np.array_equal(a.start, c.start)
        assert np.abs(a.start - b.start).mean() < 0.05 * np.abs(a.start).mean()
    assert list(model.state_dict()) == names
    assert any("output.dense.weight" in name for name in trained)
    assert not any("embeddings" in name for name in trained)
    # Of NNCF's parameters the ranges stay as calibrated, and SmoothQuant's factors train.
    assert {name.rpartition(".")[2] for name in trained if "nncf" in name} == {"_scale_value"}
    assert all(parameter.requires_grad for parameter in model.bert.embeddings.parameters())


def test_attention_is_left_in_floating_point_unless_asked_for(
    tiny_model: Path, quantized: Path, windows: WindowSet
) -> None:
    """The queries and keys of each layer lose their quantizers; inputs of linear layers do not."""

    def activations(model: Any) -> set[str]:
        return set(get_hook_storage(model).post_hooks)

    everywhere = activations(load_quantized(quantized))
    model, _ = load_model(tiny_model, dropout=False)
    params = CALIBRATE.model_copy(update={"quantize_attention": False})
    left = activations(calibrate(model, windows[:8], params))
    assert left < everywhere
    layers = model.config.num_hidden_layers
    assert {name.rpartition("/")[0] for name in everywhere - left} == {
        f"bert/encoder/attention/self/{name}/linear" for name in ("query", "key")
    }
    assert len(everywhere - left) == 2 * layers


def test_token_types_keep_their_embeddings(quantized: Path) -> None:
    tables = {
        name.split("/")[2]
        for name in get_hook_storage(load_quantized(quantized)).pre_hooks
        if name.startswith("bert/embeddings/")
    }
    assert tables == {"word_embeddings", "position_embeddings"}


def test_a_folder_that_is_not_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nncf\.json: no such file; run `dvc repro`"):
        load_quantized(tmp_path)
    with pytest.raises(UserError, match=r"no model\.onnx in it"):
        onnx_forward(tmp_path, "CPUExecutionProvider", "fp32")


def test_quantized_weights_are_stored_as_int8(onnx_folder: Path) -> None:
    graph = onnx.load(onnx_folder / "model.onnx").graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kinds = collections.Counter(node.op_type for node in graph.node)
    # Two layers of six linear layers, the head, and the embeddings of words and positions.
    by_dequantize = [
        stored[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]
    matrices = [weight for weight in by_dequantize if weight.ndim == 2]
    assert len(matrices) == 2 * 6 + 1 + 2
    assert all(weight.dtype in (np.int8, np.uint8) for weight in matrices)
    assert kinds["QuantizeLinear"] < kinds["DequantizeLinear"]
    big_floats = [a for a in stored.values() if a.dtype == np.float32 and a.size > 64 * 512]
    assert not big_floats


@pytest.mark.parametrize("provider", ["OpenVINOExecutionProvider", "CPUExecutionProvider"])
def test_onnx_answers_as_torch_does(
    onnx_folder: Path, quantized: Path, tokenizer: Any, provider: str
) -> None:
    ours = Engine(onnx_forward(onnx_folder, provider, "fp32"), tokenizer, WINDOWS, DECODING)
    theirs = Engine(torch_forward(load_quantized(quantized)), tokenizer, WINDOWS, DECODING)
    answers, expected = ours.answer(EXAMPLES), theirs.answer(EXAMPLES)
    assert sum(a.text == b.text for a, b in zip(answers, expected, strict=True)) >= 11


def test_the_graph_is_checked_against_torch(
    tmp_path: Path, quantized: Path, tiny_model: Path, windows: WindowSet
) -> None:
    model = load_quantized(quantized)
    write_folder(tmp_path, to_onnx(strip(model, windows), windows[:2], {}), quantized)
    assert relative_difference(tmp_path, model, windows) < 0.05
    plain, _ = load_model(tiny_model, dropout=False)
    write_folder(tmp_path, to_onnx(plain, windows[:2], {}), tiny_model)
    assert relative_difference(tmp_path, plain, windows) < 1e-5
    torch.manual_seed(5)
    with torch.no_grad():
        plain.qa_outputs.weight.normal_()
    other = relative_difference(tmp_path, plain, windows)
    assert other > 0.5
    with pytest.raises(UserError, match="models/onnx/fp32: the ONNX model differs"):
        check_same(Path("models/onnx/fp32"), other, 1e-4)
    with pytest.raises(UserError):
        check_same(Path("models/onnx/fp32"), float("nan"), 1e-4)


def test_batch_and_length_are_dynamic(
    onnx_folder: Path, quantized: Path, tokenizer: Any, windows: WindowSet
) -> None:
    forward = onnx_forward(onnx_folder, "CPUExecutionProvider", "fp32")
    model = torch_forward(load_quantized(quantized))
    short = make_windows(
        EXAMPLES[:1], tokenizer, max_length=48, doc_stride=8, max_question_length=16
    )
    for some in (windows[:1], windows[:5], short):
        ours, theirs = run_windows(forward, some), run_windows(model, some)
        for a, b in zip(ours, theirs, strict=True):
            assert a.start.shape == b.start.shape
            assert np.corrcoef(a.start, b.start)[0, 1] > 0.98


def test_the_pipeline_loads_the_folder_as_it_is(onnx_folder: Path, tokenizer: Any) -> None:
    question = (EXAMPLES[0].question, EXAMPLES[0].context)
    ((result,),) = in_peers(pipeline_answers, onnx_folder, [question], {})
    assert EXAMPLES[0].context[result["start"] : result["end"]] == result["answer"]


def test_optimum_intel_loads_the_folder_as_it_is(
    onnx_folder: Path, tokenizer: Any, windows: WindowSet
) -> None:
    from optimum.intel import OVModelForQuestionAnswering

    model = OVModelForQuestionAnswering.from_pretrained(
        onnx_folder,
        from_onnx=True,
        file_name="model.onnx",
        ov_config={"INFERENCE_PRECISION_HINT": "f32"},
        trust_remote_code=False,
    )
    ours = onnx_forward(onnx_folder, "OpenVINOExecutionProvider", "fp32")

    def theirs(batch: Any) -> Any:
        output = model(**batch)
        return output.start_logits, output.end_logits

    for a, b in zip(run_windows(ours, windows[:4]), run_windows(theirs, windows[:4]), strict=True):
        assert np.corrcoef(a.start, b.start)[0, 1] > 0.98
        assert np.corrcoef(a.end, b.end)[0, 1] > 0.98


def test_the_model_says_what_it_was_made_from(
    tmp_path: Path, onnx_folder: Path, quantized: Path, tiny_model: Path
) -> None:
    props = onnx.load(onnx_folder / "model.onnx").metadata_props
    assert {prop.key: prop.value for prop in props} == {"made_from": "a test"}
    files = {"fp32": tiny_model / "model.safetensors", "qat": quantized / "model.safetensors"}
    described = describe({"model": "a@1", "dataset": "b"}, files, {"ptq": CALIBRATE})
    assert list(described) == ["model", "dataset", "fp32_sha256", "qat_sha256", "ptq"]
    assert described["model"] == "a@1"
    assert described["qat_sha256"] == hash_file(files["qat"])
    assert json.loads(described["ptq"])["preset"] == "mixed"
    assert str(tmp_path.parent) not in str(described)


def test_a_model_without_token_types_goes_all_the_way(
    tmp_path: Path, tokenizer_folder: Path, tokenizer: Any
) -> None:
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering

    from bert_qa.checkpoints import save_checkpoint
    from bert_qa.intake import build_checkpoint
    from bert_qa.windows import load_tokenizer

    torch.manual_seed(0)
    config = DistilBertConfig(
        dim=64,
        n_layers=1,
        n_heads=2,
        hidden_dim=128,
        vocab_size=tokenizer.backend.get_vocab_size(),
    )
    theirs, base = tmp_path / "theirs", tmp_path / "base"
    theirs.mkdir()
    base.mkdir()
    save_checkpoint(theirs, DistilBertForQuestionAnswering(config), tokenizer_folder)
    described = json.loads((theirs / "tokenizer_config.json").read_text())
    described |= {"tokenizer_class": "DistilBertTokenizer"}
    del described["model_input_names"]  # as people have it: the class knows
    (theirs / "tokenizer_config.json").write_text(json.dumps(described))
    build_checkpoint(theirs, base, "theirs")

    own = load_tokenizer(base)
    windows = make_windows(EXAMPLES, own, **WINDOWS.model_dump())
    assert windows[0].token_type_ids is None
    model, has_head = load_model(base, dropout=False)
    assert has_head
    model = calibrate(model, windows[:8], CALIBRATE)
    graph = to_onnx(strip(model, windows), windows[:2], {})
    assert [value.name for value in graph.graph.input] == ["input_ids", "attention_mask"]
    folder = tmp_path / "onnx"
    folder.mkdir()
    write_folder(folder, graph, base)
    assert relative_difference(folder, model, windows) < 0.05
    engine = Engine(onnx_forward(folder, "CPUExecutionProvider", "fp32"), own, WINDOWS, DECODING)
    assert len(engine.answer(EXAMPLES)) == len(EXAMPLES)
