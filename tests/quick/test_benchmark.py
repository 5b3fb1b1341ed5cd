"""The benchmark's arithmetic and its picture; the pipeline's tests run the contenders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark import processes_compared
from benchmark.contenders import CONTENDERS, PROJECT_INT8, REFERENCE
from benchmark.measure import (
    Figures,
    questions_of,
    report,
    scores,
    write_table,
)
from benchmark.plot import draw, draw_speed
from benchmark.roofline import operations
from bert_qa.cpu import machine
from bert_qa.errors import UserError
from bert_qa.squad import Example, Span, read_questions
from release import versions
from tests.conftest import ROOT


def test_every_figure_is_beside_its_ratio() -> None:
    figures = {
        REFERENCE: Figures(4.0, [2.0, 1.0, 9.0], [2.0], {64: [0.010, 0.030]}, 800.0),
        "other": Figures(1.0, [0.5, 0.5, 0.4], [0.4], {64: [0.005, 0.005]}, 400.0),
    }
    rows = report(figures, rows=100)
    assert rows["other"] == {
        "questions_per_second": 200.0,  # the median round took 0.5 s
        "again_per_second": 250.0,
        "start_s": 1.0,
        "peak_mb": 400.0,
        "latency_64_p50_ms": 5.0,
        "latency_64_p99_ms": 5.0,
        "x_questions_per_second": 4.0,
        "x_again_per_second": 5.0,
        "x_start_s": 0.25,
        "x_peak_mb": 0.5,
        "x_latency_64_p50_ms": 0.25,
        "x_latency_64_p99_ms": 0.1678,  # of 29.8 ms, 99% of the way from 10 to 30
    }


def test_operations_of_bert_base() -> None:
    """One window of 128 tokens: the 22.36 billion operations of 12 layers, worked out by parts."""
    linear = 128 * (4 * 768 * 768 + 2 * 768 * 3072)
    attention = 2 * 128 * 128 * 768
    assert operations([128], 12, 768, 3072) == 2 * 12 * (linear + attention)
    assert math.isclose(operations([128], 12, 768, 3072), 22.35e9, rel_tol=1e-2)


def test_questions_have_the_lengths_asked_for(tokenizer: Any) -> None:
    examples = read_questions(ROOT / "data/sample/validation.json")[:20]
    questions = questions_of([64, 128, 384], examples, tokenizer)
    for length, (question, context) in questions.items():
        assert len(tokenizer.backend.encode(question, context)) == length
    with pytest.raises(UserError, match="100000 tokens are less than a question or more"):
        questions_of([100_000], examples, tokenizer)


def test_scores_are_of_the_table(tmp_path: Path) -> None:
    examples = [
        Example("1", "Where?", "in London", (Span("London", 3),)),
        Example("2", "Who?", "Ada, NA", (Span("Ada", 0),)),
    ]
    write_table(examples, tmp_path / "in.csv")
    table = pd.read_csv(tmp_path / "in.csv", na_filter=False)
    assert table["Context"].tolist() == ["in London", "Ada, NA"]
    table.assign(Answer=["London", "NA"]).to_csv(tmp_path / "out.csv", index=False)
    assert scores(examples, tmp_path / "out.csv") == {"exact_match": 50.0, "f1": 50.0}


def test_the_picture_is_one(tmp_path: Path) -> None:
    latencies = {64: [0.01], 128: [0.02]}
    figures = {name: Figures(1.0, [1.0], [1.0], latencies, 500.0) for name in CONTENDERS}
    growth = [{"rows": 10, "seconds": 1.0, "peak_mb": 500.0}]
    draw(report(figures, 10), growth, list(latencies), machine(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").stat().st_size > 20_000
    rows = report(figures, 10)
    for number, row in enumerate(rows.values()):
        row["f1"] = 70.0 + number % 2
    draw_speed(rows, machine(), tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_losses_of_one_process_and_of_two_are_drawn(tmp_path: Path) -> None:
    logs = {1: "step\tloss\n1\t0.5\n5\t0.25\n", 2: "step\tloss\n1\t0.5\n5\t0.3\n"}
    losses = processes_compared.read_losses(logs.__getitem__)
    assert losses.to_numpy().tolist() == [[1, 1, 0.5], [1, 5, 0.25], [2, 1, 0.5], [2, 5, 0.3]]
    processes_compared.draw(losses, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_releases_know_the_model_by_the_benchmark_s_name() -> None:
    assert versions.PROJECT_INT8 == PROJECT_INT8
    assert CONTENDERS[PROJECT_INT8].precision == "INT8"
    assert not CONTENDERS[PROJECT_INT8].peer
