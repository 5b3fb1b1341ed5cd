"""The plots of a run: tables worked out by hand, and pictures that git can hold."""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from bert_qa.errors import UserError
from bert_qa.evaluation import Results
from bert_qa.pictures import COLORS, draw_all
from bert_qa.plots import plot_tables, question_word
from bert_qa.spans import Answer
from stages import draw
from stages.draw import DRAWN, LOSSES
from tests.conftest import ROOT
from tests.quick.test_evaluation import results

TRAINED = True


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Results]:
    """FP32, PTQ and QAT; of four questions QAT gets one wrong that FP32 has right."""
    made = results(tmp_path)
    return {"fp32": made["fp32"], "ptq": made["fp32"], "qat": made["qat"]}


def rows(table: pd.DataFrame) -> list[list[object]]:
    return table.to_numpy().tolist()


def test_f1_by_group(models: dict[str, Results]) -> None:
    """The group has a column of its own: with the count in it, no two data sets share a row."""
    del models["ptq"]
    tables = plot_tables(models, TRAINED)
    assert tables["f1_by_question"].columns.tolist() == ["question", "questions", "model", "f1"]
    assert rows(tables["f1_by_question"]) == [
        ["where", 2, "FP32", 83.3333],
        ["who", 2, "FP32", 100.0],
        ["where", 2, "INT8, QAT", 83.3333],
        ["who", 2, "INT8, QAT", 50.0],
    ]
    # Golds of one word, of two, and none twice.
    assert rows(tables["f1_by_answer_length"])[:3] == [
        ["none", 2, "FP32", 100.0],
        ["1", 1, "FP32", 100.0],
        ["2", 1, "FP32", 66.6667],
    ]
    assert rows(tables["f1_by_context_length"])[0] == ["1 to 50", 4, "FP32", 91.6667]


@pytest.mark.parametrize(
    ("words", "group"),
    [(1, "1 to 50"), (50, "1 to 50"), (51, "51 to 100"), (300, "201 to 300"), (301, "over 300")],
)
def test_a_group_has_its_upper_end(models: dict[str, Results], words: int, group: str) -> None:
    reading = models["fp32"].reading
    longer = [replace(example, context="word, " * words) for example in reading.examples]
    models["fp32"] = replace(models["fp32"], reading=replace(reading, examples=longer))
    assert rows(plot_tables(models, TRAINED)["f1_by_context_length"])[0][0] == group


def test_scores_have_intervals(models: dict[str, Results]) -> None:
    table = plot_tables(models, TRAINED)["scores"]
    assert rows(table[["measure", "model"]])[2] == ["exact match", "INT8, QAT"]
    assert (table["low"] <= table["percent"]).all()
    assert (table["percent"] <= table["high"]).all()
    # Two of four are right: a resample has none or all of them in more than 5% of the cases.
    assert rows(table)[2][2:] == [50.0, 0.0, 100.0]


def test_windows_by_their_divergence(models: dict[str, Results]) -> None:
    table = plot_tables(models, TRAINED)["divergence"]
    assert table["model"].unique().tolist() == ["INT8, PTQ", "INT8, QAT"]
    assert (table[table["model"] == "INT8, PTQ"]["windows"] == 100).all()
    qat = table[table["model"] == "INT8, QAT"]
    # As in test_evaluation: the start of one window of four, and half of that with its end.
    limit = (0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert (qat["windows"] == np.where(qat["divergence"] < limit, 75.0, 100.0)).all()


def test_confidence_against_correctness(models: dict[str, Results]) -> None:
    answers = [Answer("London", score, 6, 12) for score in (0.91, 0.99, 0.35, 1.0)]
    models["fp32"] = replace(models["fp32"], answers=answers)
    table = plot_tables(models, TRAINED)["confidence"]
    # Right of the four: all but the second.
    assert rows(table)[:2] == [
        ["FP32", 35.0, 100.0, 1],
        ["FP32", 96.6667, 66.6667, 3],
    ]


def test_pictures_are_small_and_the_same_twice(models: dict[str, Results], tmp_path: Path) -> None:
    tables = plot_tables(models, TRAINED)
    steps = pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25]})
    losses = {"finetune": steps[:0], "train": steps}
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw_all(tables, losses, tmp_path / name)
        made.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {f"{name}.png" for name in (*tables, "loss")}
    assert max(map(len, made[0].values())) < 60_000


def test_pictures_of_what_is_not_usual(
    models: dict[str, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question, without an answer, of a model that was not trained; as the stage reads them."""
    for name, result in models.items():
        reading = result.reading
        one = replace(reading, examples=reading.examples[2:3], logits=reading.logits[2:3])
        answers, scores = result.answers[2:3], result.scores[2:3]
        models[name] = replace(result, reading=one, answers=answers, scores=scores)
    monkeypatch.chdir(tmp_path)
    for file, table in zip(DRAWN, plot_tables(models, not TRAINED).values(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False)
    for file in LOSSES.values():
        file.parent.mkdir(parents=True)
        file.write_text("step\tloss\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw.main()
    assert len(list(Path("metrics/pictures").iterdir())) == 7
    DRAWN[0].write_text("<<<<<<< HEAD\n")
    with pytest.raises(UserError, match="metrics: not what this project wrote"):
        draw.main()
    assert len(list(Path("metrics/pictures").iterdir())) == 7


def test_the_pages_colors_are_the_pictures() -> None:
    for file in (ROOT / ".dvc/plots").iterdir():
        text = file.read_text(encoding="utf-8")
        scales = re.findall(r'"domain": (\[[^\]]*"[^\]]*\]),\s*"range": (\[[^\]]*\])', text)
        assert scales, file.name
        for labels, colors in scales:
            assert dict(zip(json.loads(labels), json.loads(colors), strict=True)) == COLORS


def test_dvc_draws_every_table_by_a_template_of_its_columns(models: dict[str, Results]) -> None:
    workflow = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    plots = {
        name: plot
        for entry in workflow["stages"]["evaluate"]["plots"]
        for name, plot in entry.items()
    }
    tables = plot_tables(models, TRAINED)
    assert set(plots) == {f"metrics/plots/{name}.csv" for name in tables}
    for name, table in tables.items():
        plot = plots[f"metrics/plots/{name}.csv"]
        assert {plot["x"], plot["y"]} <= set(table.columns)
        template = (ROOT / f".dvc/plots/{plot['template']}.json").read_text(encoding="utf-8")
        fields = re.findall(r'"field": "([a-z]\w*)"', template)
        assert set(fields) <= {*table.columns, "rev"}  # DVC adds the revision


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("In how many years did whales recover?", "how many"),
        ("How was it built?", "how"),
        ("For whom was it built?", "who"),
        ("Whose idea was it?", "who"),
        ("Name the whole team.", "other"),
        ("At which gate?", "which"),
        ("Why did he leave when it rained?", "why"),
    ],
)
def test_question_words(question: str, word: str) -> None:
    assert question_word(question) == word
