"""The embedded model and the real data: what the tiny ones cannot show.

Needs the data and the model beside the checkout, and is skipped without them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from qa.adapter import merge_adapter
from qa.checkpoints import load_model, torch_forward
from qa.engine import Engine, onnx_forward
from qa.evaluation import same_answers
from qa.export import to_onnx, write_folder
from qa.features import load_tokenizer, make_windows
from qa.metrics import exact_match_and_f1
from qa.params import Params, read_params
from qa.quantization import calibrate, load_quantized, save_quantized, strip
from qa.squad import read_squad_json, subset
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def params() -> Params:
    return read_params(ROOT / "params.yaml")


def test_the_embedded_model_answers(tmp_path: Path, shared_squad: Path, params: Params) -> None:
    merge_adapter(ROOT / "models/minilm-squad", tmp_path)
    model, has_head = load_model(tmp_path, dropout=False)
    assert has_head
    tokenizer = load_tokenizer(tmp_path)
    engine = Engine(torch_forward(model), tokenizer, params.windows, params.decoding)
    examples = read_squad_json(shared_squad / "dev.json")
    assert exact_match_and_f1(examples, engine.answer(examples)).f1 >= 65


def test_int8_on_the_provider_answers_as_fake_quantized_torch(
    tmp_path: Path, shared_squad: Path, shared_model: Path, params: Params
) -> None:
    """The same quantizers, so the same F1 and nearly the same answers, in a quarter of the size.

    96% of the answers were the same when this was written. Not all can be: a difference in the
    last bit of a sum turns into a whole step where a quantizer rounds, and grows layer by layer.
    """
    tokenizer: Any = load_tokenizer(shared_model)
    options = params.windows.model_dump()
    chosen = subset(read_squad_json(shared_squad / "train.json"), 64, seed=0)
    windows = make_windows(chosen, tokenizer, **options)
    fp32, _ = load_model(shared_model, dropout=False)
    plain = to_onnx(fp32, windows[:2], 0, {})
    save_quantized(tmp_path, calibrate(fp32, windows, 0, params.train), tokenizer)
    model = load_quantized(tmp_path)
    graph = to_onnx(strip(model, windows[0], 0), windows[:2], 0, {})
    assert len(graph.SerializeToString()) <= 0.27 * len(plain.SerializeToString())
    folder = tmp_path / "onnx"
    folder.mkdir()
    write_folder(folder, graph, model.config, tokenizer)

    examples = read_squad_json(shared_squad / "dev.json")
    answers = [
        Engine(forward, tokenizer, params.windows, params.decoding).answer(examples)
        for forward in (
            torch_forward(model),
            onnx_forward(folder, params.evaluate.provider),
        )
    ]
    assert same_answers(*answers) >= 94
    scores = [exact_match_and_f1(examples, some).f1 for some in answers]
    assert math.isclose(*scores, abs_tol=1.0)
