"""The engine keeps the order of questions and reports each once, whatever the batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bert_qa.batches import BATCH_TOKENS
from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.engine import Engine
from bert_qa.params import Decoding, Windows
from bert_qa.squad import Example, read_questions
from tests.conftest import ROOT

WINDOWS = Windows(max_length=96, doc_stride=16, max_question_length=32)
DECODING = Decoding(
    max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
)
EXAMPLES = read_questions(ROOT / "data/sample/validation.json")[:20]


def test_answers_do_not_depend_on_the_batches(tiny_model: Path, tokenizer: Any) -> None:
    model, _ = load_model(tiny_model, dropout=False)
    forward = torch_forward(model)
    shapes: list[tuple[int, ...]] = []

    def counting(batch: dict[str, NDArray[np.int64]]) -> Any:
        shapes.append(batch["input_ids"].shape)
        return forward(batch)

    many = Engine(counting, tokenizer, WINDOWS, DECODING)
    finished: list[int] = []
    together = many.answer(EXAMPLES, finished.append)
    assert sum(finished) == len(EXAMPLES)
    assert all(rows * length <= max(BATCH_TOKENS) for rows, length in shapes)
    assert max(rows for rows, _ in shapes) > 1
    alone = [many.answer([example])[0] for example in EXAMPLES]
    assert [a.text for a in together] == [a.text for a in alone]
    backwards = many.answer(EXAMPLES[::-1])[::-1]
    assert [a.text for a in together] == [a.text for a in backwards]
    for example, answer in zip(EXAMPLES, together, strict=True):
        assert example.context[answer.start : answer.end] == answer.text
    assert many.answer([]) == []


def test_chunks_come_back_in_order(tiny_model: Path, tokenizer: Any) -> None:
    model, _ = load_model(tiny_model, dropout=False)
    forward = torch_forward(model)
    alone = Engine(forward, tokenizer, WINDOWS, DECODING).answer(EXAMPLES)
    engine = Engine(forward, tokenizer, WINDOWS, DECODING)
    taken: list[int] = []
    finished: list[int] = []

    def chunks() -> Iterator[Sequence[Example]]:
        for at in range(0, len(EXAMPLES), 6):
            taken.append(at)
            yield EXAMPLES[at : at + 6]

    answers = []
    for n, chunk in enumerate(engine.answer_chunks(chunks(), finished.append)):
        answers += chunk
        assert len(taken) <= n + 2  # one chunk ahead, whatever the table's length
    assert [a.text for a in answers] == [a.text for a in alone]
    assert sum(finished) == len(EXAMPLES)


def test_a_consumer_that_stops_stops_the_engine(tiny_model: Path, tokenizer: Any) -> None:
    model, _ = load_model(tiny_model, dropout=False)
    engine = Engine(torch_forward(model), tokenizer, WINDOWS, DECODING)

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        engine.answer(EXAMPLES, interrupted)
    assert threading.active_count() == before
