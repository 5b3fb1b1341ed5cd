"""Experiments: every file of experiments/ is one, and a mistake is one line."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bert_qa.errors import UserError, run
from bert_qa.params import Params
from scripts import experiment
from scripts.experiment import read_experiment, results
from tests.conftest import ROOT

FILES = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that the script runs, none of which is run."""
    ran: list[list[str]] = []
    committed = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(committed)

    class Done:
        returncode, stdout, stderr = 0, "[]", ""

    def note(command: list[str], **_: Any) -> Done:
        done = Done()
        if list(command[:2]) == ["git", "show"]:
            done.stdout = committed
        else:
            ran.append(list(command))
        return done

    monkeypatch.setattr("subprocess.run", note)
    monkeypatch.setattr(experiment, "SECONDS", 0)
    monkeypatch.setattr(experiment, "FOLDER", ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    for name in ("train.json", "dev.json"):
        (tmp_path / name).touch()
    (tmp_path / "model, mine").mkdir()
    return ran


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiment.py", *arguments])
    try:
        run(experiment.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


DATA = ("--train", "train.json", "--validation", "dev.json", "--model", "model, mine")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_override_is_a_parameter(file: Path) -> None:
    found = read_experiment(file)
    for changes in (found.overrides, *found.variants):
        for key in changes:
            section, name = key.split(".")
            field = Params.model_fields[section].annotation
            assert field is not None
            assert name in field.model_fields, key
    assert (ROOT / found.workflow).is_file()


def test_one_experiment_is_one_command(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert call(monkeypatch, "real", *DATA, "-S", "train.epochs=2") == 0
    ((*command,),) = commands
    assert command[:4] == ["dvc", "exp", "run", "dvc.yaml"]
    assert re.fullmatch(r"real-\d{8}-\d{6}", command[5])
    changes = command[7::2]
    assert "dataset.name='files'" in changes
    assert f"model.folder='{tmp_path / 'model, mine'}'" in changes  # a comma is no list
    assert "evaluate.max_f1_drop=1.3" in changes
    assert "dataset.max_train_examples=4000" in changes
    assert changes[-1] == "train.epochs=2"


def test_what_an_experiment_left_in_the_parameters_is_not_the_next_one_s(
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """DVC leaves them in params.yaml; without a model the next one is of the embedded model."""
    assert call(monkeypatch, "real", *DATA[:4]) == 0
    left = YAML(typ="safe").load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    left["model"] |= {"name": "folder", "folder": "models/grafted"}
    left["train"] |= {"learning_rate": 5e-5, "epochs": 2}
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(left, file)
    assert call(monkeypatch, "real", *DATA[:4]) == 0
    says = "as it is here: model.name, model.folder, train.epochs, train.learning_rate"
    assert says in capsys.readouterr().out
    first, second = commands
    assert not [change for change in first if change.startswith(("model.", "train."))]
    assert {"model.name='minilm-squad'", "train.epochs=1", "train.learning_rate=1e-06"} < {*second}
    (tmp_path / "params.yaml").write_text("a: [")
    assert call(monkeypatch, "real", *DATA[:4]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: params.yaml: not parameters: ")
    assert error.count("\n") == 1


def test_variants_are_queued_and_waited_for(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "grid", *DATA) == 1  # none of them has run
    queued = [command for command in commands if "--queue" in command]
    assert len(queued) == 16
    assert len({command[5] for command in queued}) == 16
    assert all("train.epochs=0" in command for command in queued[:13])
    assert commands[0] == ["git", "rev-parse", "HEAD"]
    assert commands[17:] == [
        ["dvc", "queue", "start"],
        ["dvc", "queue", "status"],
        [*experiment.SHOW, "[]"],  # what git said
    ]
    says = "error: 16 experiments failed; `dvc queue logs NAME` says why\n"
    assert capsys.readouterr().err == says
    assert not Path("metrics/grid.csv").exists()


def test_metrics_become_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"questions": 3, "fp32": {"f1": 3.0}, "ptq": {"f1": 1.0, "size_mb": 2.0}}
    metrics["qat"] = {"f1": 2.0, "size_ratio": 0.3}
    shown: list[dict[str, Any]] = [
        {
            "experiments": [
                {"name": "g-b", "revs": [revision(metrics)]},
                {"name": "g-a", "revs": [revision(metrics)]},
                {"name": "g-failed", "revs": [{"data": None}]},
                {"name": "g-broken", "revs": [{"data": {"metrics": {"m.json": {"error": {}}}}}]},
                {"name": "other", "revs": [revision(metrics)]},
            ]
        },
        {"experiments": None},
    ]
    rows = results(shown, ["g-a", "g-b", "g-failed", "g-broken"])
    assert rows == [{"experiment": name, "ptq.f1": 1.0, "qat.f1": 2.0} for name in ("g-a", "g-b")]
    monkeypatch.chdir(tmp_path)
    experiment._write(rows, "g-", 2, Path("grid.csv"))
    with Path("grid.csv").open(encoding="utf-8") as lines:
        assert list(csv.reader(lines))[1:] == [["a", "1.0", "2.0"], ["b", "1.0", "2.0"]]


def revision(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"metrics": {experiment.METRICS: {"data": metrics}}}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none"], "no such experiment; there are bert-large, graft, grid, hard, real, rest"),
        (["real"], "real: give --train and --validation; `make data` fetches both"),
        (["bert-large", "--model", "missing"], "--model: no such file: missing"),
        (["real", *DATA[:-1], "missing"], "--model: no such file: missing"),
    ],
)
def test_a_mistake_is_one_line(
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    assert call(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert commands == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not YAML"),
        ("description: a", "overrides: Field required; fix it"),
        ("{description: a, overrides: {}, more: 1}", "more: Extra inputs"),
        ("{description: a, overrides: {}, variants: [{}]}", "variants.0"),
        (
            "{description: a, overrides: {}, variants: [{b.c: 1, d.e: 2}, {b.c: 1}]}",
            "two variants begin with the same change",
        ),
        ("- a", "fix it"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str | bytes, says: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says) as error:
        read_experiment(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)
