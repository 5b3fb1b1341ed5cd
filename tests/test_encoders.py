"""Encoders other than BERT, tiny and random, through the recipe to an exported model.

Weights of random models say nothing of accuracy: what is compared is each step with the one before.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForQuestionAnswering,
    PreTrainedConfig,
    PreTrainedModel,
)

from qa.checkpoints import save_checkpoint, torch_forward
from qa.errors import UserError
from qa.export import relative_difference, to_onnx, write_folder
from qa.features import Tokenizer, Window, make_windows, pad
from qa.logits import Logits, run_windows
from qa.overflow import widen_ranges
from qa.params import read_params
from qa.quantization import calibrate, fast_quantizers, strip
from qa.rounding import round_weights
from qa.sessions import onnx_forward
from qa.shifting import shift_channels
from qa.splitting import split_outlier_channels
from qa.squad import Example
from qa.tracing import make_traceable
from tests.conftest import ROOT

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "embedding_size": 32,
    "initializer_range": 0.3,  # large weights, so that logits depend on the input
}
ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": {},
    "distilbert": {},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "xlm-roberta": {},
    "electra": {},
    "albert": {},  # one layer, called by all
    "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2},
    "mpnet": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "convbert": {},
    "squeezebert": {},
}
"""The most used of the Hub first, and those that are built in another way than BERT."""


def tiny(kind: str, vocabulary: int) -> PreTrainedModel:
    config_class: type[PreTrainedConfig] = CONFIG_MAPPING[kind]
    known = {*inspect.signature(config_class).parameters, *config_class.attribute_map}
    values = SMALL | {"vocab_size": vocabulary, "pad_token_id": 0} | ENCODERS[kind]
    config = config_class(**{key: value for key, value in values.items() if key in known})
    for key in config.to_dict():
        if key.endswith(("dropout", "dropout_prob")) and getattr(config, key):
            setattr(config, key, 0.0)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForQuestionAnswering.from_config(
        config, trust_remote_code=False, attn_implementation="eager"
    )
    make_traceable(model)
    return model.eval()


def windows_of(model: PreTrainedModel, tokenizer: Tokenizer) -> list[Window]:
    types = "token_type_ids" in inspect.signature(type(model).forward).parameters
    types = types and getattr(model.config, "type_vocab_size", 2) > 1
    read = replace(tokenizer, has_token_types=types, model_max_length=128)
    examples = [
        Example(str(i), "Where was Ada in 1830?", "Ada was in London, Byron in Greece. " * (1 + i))
        for i in range(6)
    ]
    return make_windows(examples, read, max_length=96, doc_stride=16, max_question_length=32)


def flat(logits: list[Logits]) -> np.ndarray[Any, Any]:
    return np.concatenate([np.concatenate([each.start, each.end]) for each in logits])


def difference(ours: list[Logits], theirs: list[Logits]) -> float:
    a, b = flat(ours), flat(theirs)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean((b - b.mean()) ** 2)))


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_goes_all_the_way(
    kind: str, tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    params = read_params(ROOT / "params.yaml").calibrate
    model = tiny(kind, tokenizer.backend.get_vocab_size())
    windows = windows_of(model, tokenizer)
    fp32 = to_onnx(model, windows[:2], 0, {})
    assert relative_difference(fp32, model, windows, 0) < 1e-4
    before = run_windows(torch_forward(model), windows, 0)
    for step in (shift_channels, partial(split_outlier_channels, copies=4)):
        try:
            step(model, windows, 0)
        except UserError:
            continue  # it is for another kind of layers, and says so
        assert difference(run_windows(torch_forward(model), windows, 0), before) < 1e-3
    model = calibrate(model, windows, 0, params)
    widen_ranges(model, windows[0], 0)
    round_weights(model, windows, 0)
    quantized = run_windows(torch_forward(model), windows, 0)
    assert np.isfinite(flat(quantized)).all()
    with fast_quantizers(model):
        batch = {key: torch.from_numpy(array) for key, array in pad(windows[:2], 0).items()}
        assert difference(run_windows(torch_forward(model), windows, 0), quantized) < 0.05
        ends = torch.tensor([12, 13])
        loss = model.train()(**batch, start_positions=ends - 2, end_positions=ends).loss
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
        model.zero_grad(set_to_none=True)
    model.eval()
    graph = to_onnx(strip(model, windows[0], 0), windows[:2], 0, {})
    assert relative_difference(graph, model, windows, 0) < 0.02
    save_checkpoint(tmp_path, tiny(kind, tokenizer.backend.get_vocab_size()), tokenizer_folder)
    out = tmp_path / "onnx"
    out.mkdir()
    write_folder(out, graph, tmp_path)
    provider = run_windows(onnx_forward(out, "OpenVINOExecutionProvider", "fp32"), windows, 0)
    print(f"{kind}: {difference(provider, quantized):.4f}")
    assert difference(provider, quantized) < 0.1
