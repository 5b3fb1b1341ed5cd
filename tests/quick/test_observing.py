"""Hooks that watch a model: every token once, no padding, and off again whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from bert_qa.batches import make_batches
from bert_qa.checkpoints import load_model
from bert_qa.quantization.observing import Tokens, hooked
from bert_qa.squad import Example
from bert_qa.windows import Tokenizer, WindowSet, make_windows

SIZES: dict[str, Any] = {"max_length": 96, "doc_stride": 16, "max_question_length": 32}


@pytest.fixture(scope="module")
def windows(tokenizer: Tokenizer) -> WindowSet:
    """Of many lengths, the longest of many times the shortest."""
    examples = [
        Example(str(n), "Where was Byron?", "Ada was in London, Byron in Greece. " * n)
        for n in (1, 5, 2, 9, 1, 3)
    ]
    return make_windows(examples, tokenizer, **SIZES)


@pytest.fixture
def model(tiny_model: Path) -> PreTrainedModel:
    return load_model(tiny_model, dropout=False)[0]


def watched(
    model: PreTrainedModel,
    windows: WindowSet,
    module: nn.Module,
    look: Callable[[Tokens, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """What `look` sees of a module's outputs, batch after batch."""
    tokens, seen = Tokens(model, windows), list[torch.Tensor]()
    handle = module.register_forward_hook(lambda _, __, output: seen.append(look(tokens, output)))
    with hooked([handle]):
        tokens.pass_all("tokens")
    return torch.cat(seen)


def ordered(windows: WindowSet) -> list[int]:
    """The windows as they pass."""
    return [i for batch in make_batches(windows.lengths) for i in batch.indices]


def test_every_token_is_seen_once_and_no_padding(
    model: PreTrainedModel, windows: WindowSet
) -> None:
    batches = list(make_batches(windows.lengths))
    assert any(len(batch.indices) > 1 for batch in batches)
    padded = sum(len(batch.indices) * batch.length for batch in batches)
    assert sum(windows.lengths) < padded
    embeddings = model.bert.embeddings.word_embeddings
    rows = watched(model, windows, embeddings, Tokens.rows)
    ids = np.concatenate([np.asarray(windows[i].input_ids) for i in ordered(windows)])
    assert torch.equal(rows, embeddings.weight[torch.from_numpy(ids)])


def test_rows_are_those_of_each_window_alone(
    model: PreTrainedModel, windows: WindowSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bert_qa.quantization.observing.can_bf16", lambda: False
    )  # whose rounding differs by shape
    norm = model.bert.encoder.layer[1].output.LayerNorm
    rows = watched(model, windows, norm, Tokens.rows)
    alone: list[torch.Tensor] = []
    handle = norm.register_forward_hook(lambda _, __, output: alone.append(output[0]))
    with torch.no_grad():
        for i in ordered(windows):  # as long as it is, and no longer
            batch = windows.pad([i], length=windows.lengths[i])
            model(**{key: torch.from_numpy(array) for key, array in batch.items()})
    handle.remove()
    torch.testing.assert_close(rows, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_tokens_in_one_row_each_are_told_from_padding_too(
    model: PreTrainedModel, windows: WindowSet
) -> None:
    norm = model.bert.encoder.layer[0].output.LayerNorm
    rows = watched(model, windows, norm, Tokens.rows)
    flat = watched(model, windows, norm, lambda tokens, out: tokens.rows(out.flatten(0, 1)))
    assert torch.equal(rows, flat)


def test_of_what_is_no_token_all_counts(model: PreTrainedModel, windows: WindowSet) -> None:
    """Tables of relative positions, say, which have another shape than the batch."""
    table = torch.arange(3 * 5 * 4.0).reshape(3, 5, 4)
    head = model.qa_outputs
    batches = len(list(make_batches(windows.lengths)))
    rows = watched(model, windows, head, lambda tokens, _: tokens.rows(table))
    assert torch.equal(rows, table.reshape(15, 4).repeat(batches, 1))
    rows = watched(model, windows, head, lambda tokens, _: tokens.rows(table[0]))
    assert torch.equal(rows, table[0].repeat(batches, 1))


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def test_hooks_come_off(model: PreTrainedModel, windows: WindowSet) -> None:
    before = hooks_of(model)
    handles = [
        module.register_forward_hook(lambda *_: None)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    assert hooks_of(model) > before
    with hooked(handles):
        Tokens(model, windows).pass_all("tokens")
        assert hooks_of(model) > before
    assert hooks_of(model) == before


@pytest.mark.parametrize("interrupted", [True, False])
def test_hooks_come_off_after_a_failure(
    model: PreTrainedModel, windows: WindowSet, interrupted: bool
) -> None:
    """Of the model, which does not know a token, or of somebody at the keyboard."""
    before = hooks_of(model)
    calls = 0

    def note(*_: object) -> None:
        nonlocal calls
        calls += 1
        if interrupted:
            raise KeyboardInterrupt

    unknown = [*windows[0].input_ids[:-1], 10_000_000]
    odd = WindowSet([replace(windows[0], input_ids=unknown)], 0)
    layer = model.bert.encoder.layer[0]
    handles = [module.register_forward_hook(note) for module in (layer, model.bert.embeddings)]
    failure = KeyboardInterrupt if interrupted else IndexError
    with pytest.raises(failure), hooked(handles):
        Tokens(model, windows if interrupted else odd).pass_all("tokens")
    assert calls == int(interrupted)
    assert hooks_of(model) == before
    Tokens(model, windows).pass_all("tokens")  # the model is as it was
