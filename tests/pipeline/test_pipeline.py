"""The whole pipeline under DVC, as a user runs it: cached, exact, reproducible, resumable.

One copy of the project is reproduced on a small part of the sample, from the embedded model; the
tests that follow look at what it left and change one thing each.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import yaml

from benchmark.contenders import CONTENDERS, Setting
from benchmark.processes import Worker, in_peers
from bert_qa.errors import UserError
from bert_qa.params import read_all_params
from bert_qa.quantization.overflow_fix import LARGEST_PAIR, largest_pairs
from bert_qa.sessions import inference_precision
from bert_qa.squad import Span, read_examples, write_examples
from tests.conftest import ROOT, Project, ran
from tests.peers import pipeline_answers


def test_every_row_of_the_input_is_answered(reproduced: Project) -> None:
    with (reproduced.folder / "data/output.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    with (ROOT / "data/input.csv").open(encoding="utf-8", newline="") as lines:
        given = list(csv.DictReader(lines))
    assert [(row["Context"], row["Question"]) for row in rows] == [
        (row["Context"], row["Question"]) for row in given
    ]
    for row in rows:
        start, end = int(row["Start"]), int(row["End"])
        assert row["Context"][start:end] == row["Answer"]
        assert 0 <= float(row["Score"]) <= 1
    assert [row["Answer"] for row in rows] == [
        "London",
        "Carolina Panthers",
        "February 7, 2016",
        "60 percent",
        "1,836",  # far behind the first window
        "2004",  # likewise
        "1893",
        "412",
        "six",
        "Émilie Brändli",
    ]


def test_git_stays_clean_of_outputs(reproduced: Project) -> None:
    tracked = reproduced.git("ls-files").split()
    binary = (".onnx", ".safetensors", ".bin")
    assert [name for name in tracked if name.endswith(binary)] == [
        "models/minilm-squad/adapter_model.safetensors"
    ]
    assert reproduced.git("status", "--porcelain") == ""


def test_nothing_is_left_of_checkpoints_and_partial_files(reproduced: Project) -> None:
    assert not list((reproduced.folder / "models/checkpoints").glob("*/*"))
    assert not list(reproduced.folder.glob("**/*.partial"))


def test_metrics_and_plots_show_something(reproduced: Project) -> None:
    shown = json.loads(reproduced.check("dvc", "metrics", "show", "--json"))
    metrics = shown[""]["data"]["metrics/evaluation.json"]["data"]
    assert metrics["questions"] == 50
    assert 40 < metrics["fp32"]["f1"] <= 100
    for name in ("ptq", "qat"):
        assert metrics[name]["f1_difference"] == pytest.approx(
            metrics[name]["f1"] - metrics["fp32"]["f1"], abs=2e-4
        )
        assert metrics[name]["size_ratio"] <= 0.27
    for name in ("fp32", "ptq", "qat"):
        size = (reproduced.folder / f"models/onnx/{name}/model.onnx").stat().st_size
        assert metrics[name]["size_mb"] == pytest.approx(size / 1e6, abs=1e-3)
    plots = json.loads(reproduced.check("dvc", "plots", "show", "--json"))
    logs = {f"metrics/train/plots/metrics/{name}.tsv" for name in ("loss", "learning_rate")}
    tables = {f"metrics/plots/{name}.csv" for name in ("scores", "f1_by_question", "confidence")}
    assert logs | tables <= plots["data"].keys()
    assert not plots.get("errors")
    pictures = {file.name for file in (reproduced.folder / "metrics/pictures").iterdir()}
    assert {"loss.png", "scores.png", "divergence.png"} <= pictures


def test_no_pair_of_trained_weights_overflows(reproduced: Project) -> None:
    """Training moves weights in the ranges that calibration gave them."""
    for name in ("ptq", "qat"):
        graph = onnx.load(reproduced.folder / f"models/onnx/{name}/model.onnx").graph
        weights = [
            onnx.numpy_helper.to_array(tensor).astype(np.float32)
            for tensor in graph.initializer
            if "/linear/" in tensor.name and tensor.data_type == onnx.TensorProto.INT8
        ]
        weights = [weight for weight in weights if weight.ndim == 2]
        assert len(weights) == 6 * 6 + 1  # of six encoder layers, and the head
        for weight in weights:
            assert largest_pairs(torch.from_numpy(weight)).max() <= LARGEST_PAIR


def test_predictions_are_in_squads_format(reproduced: Project) -> None:
    examples = read_examples(reproduced.folder / "data/squad/validation.jsonl")
    for name in ("fp32", "ptq", "qat"):
        text = (reproduced.folder / f"data/predictions/{name}.json").read_text(encoding="utf-8")
        predictions = json.loads(text)
        assert list(predictions) == [example.id for example in examples]
        assert all(predictions[e.id] in e.context for e in examples)


def test_the_pipeline_gives_the_answers_of_infer(reproduced: Project, tmp_path: Path) -> None:
    """transformers.pipeline over Optimum beside stages/infer.py, on 50 questions."""
    examples = read_examples(reproduced.folder / "data/squad/validation.jsonl")
    table = tmp_path / "questions.csv"
    pd.DataFrame(
        {"Context": [e.context for e in examples], "Question": [e.question for e in examples]}
    ).to_csv(table, index=False)
    params = yaml.safe_load((reproduced.folder / "params.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(
        {**params, "infer": {**params["infer"], "input": str(table), "output": f"{table}.out"}}
    )
    copy = tmp_path / "copy"
    for name in ("models/onnx/qat",):
        shutil.copytree(reproduced.folder / name, copy / name)
    (copy / "params.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["python", str(reproduced.folder / "stages/infer.py")],
        cwd=copy,
        env=reproduced.env,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ours = pd.read_csv(f"{table}.out", na_filter=False)

    folder = copy / "models/onnx/qat"
    windows, decoding = params["windows"], params["decoding"]
    options = {
        "max_seq_len": windows["max_length"],
        "doc_stride": windows["doc_stride"],
        "max_question_len": windows["max_question_length"],
        "max_answer_len": decoding["max_answer_length"],
    }
    asked = [(example.question, example.context) for example in examples]
    (answers,) = in_peers(pipeline_answers, folder, asked, options)
    different = []
    for (_, row), example, theirs in zip(ours.iterrows(), examples, answers, strict=True):
        if theirs["answer"] != row["Answer"]:
            different.append((example.question, theirs, row["Answer"], row["Score"]))
        elif len(example.context.split()) < 200:
            # One window, so the score is the same but for INT8's rounding in another batch shape.
            assert row["Score"] == pytest.approx(theirs["score"], abs=0.05)
    assert len(different) <= 2, different


def test_int8_alone_computes_in_bf16(reproduced: Project) -> None:
    models = reproduced.folder / "models"
    assert inference_precision(models / "onnx/fp32/model.onnx", "bf16") == "f32"
    for name in ("onnx/ptq", "onnx/qat", "bert-qa-int8"):
        model = models / name / "model.onnx"
        assert inference_precision(model, "bf16") == "bf16"
        assert inference_precision(model, "fp32") == "f32"


def test_every_contender_answers_the_table(
    reproduced: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark's, each in its process; Optimum Intel's, which quantizes first, apart."""
    monkeypatch.chdir(reproduced.folder)
    params = read_all_params()
    exported = (Path("models/onnx/fp32"), Path("models/onnx/ptq"), Path("models/onnx/qat"))
    checkpoint, none = Path("models/fp32"), Path("none")
    setting = Setting(checkpoint, *exported, none, params.windows, params.decoding)
    right = {}
    for name in CONTENDERS.keys() - {"pipeline, Optimum Intel INT8"}:
        with Worker(name, setting) as worker:
            assert worker.ask("answer", "Where do I live?", "I live in London.") > 0
            one = worker.peak_mb
            assert one > 50
            assert worker.ask("answer_table", Path("data/input.csv"), tmp_path / "out.csv") > 0
            if name.startswith("this project"):
                assert worker.peak_mb > one + 50  # the processes of its sessions count
        answers = pd.read_csv(tmp_path / "out.csv", na_filter=False)["Answer"]
        right[name] = sum(
            a.lower() == b.lower()
            for a, b in zip(answers, pd.read_csv("data/output.csv")["Answer"], strict=True)
        )
    assert right["this project, INT8"] == 10
    assert min(right.values()) >= 5, right  # the notebook's way reads one window and loses case
    with (
        Worker("pipeline, Optimum Intel INT8", setting) as worker,
        pytest.raises(UserError, match=r"pipeline, Optimum Intel INT8: .* its message is above"),
    ):
        worker.ask("answer", "Where?", "Here.")


def test_a_second_repro_runs_nothing(reproduced: Project) -> None:
    assert ran(reproduced.check("dvc", "repro")) == []
    assert "up to date" in reproduced.check("dvc", "status", "dvc.yaml")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"infer__provider": "CPUExecutionProvider"}, ["check_params", "infer"]),
        (
            {"decoding__max_answer_length": 12},
            ["check_params", "infer", "evaluate", "draw", "package"],
        ),
        ({"evaluate__max_f1_drop": 30.0}, ["check_params", "evaluate"]),
    ],
)
def test_a_changed_parameter_reruns_what_it_must_and_no_more(
    unchanged: Project, values: dict[str, Any], expected: list[str]
) -> None:
    unchanged.set(**values)
    assert ran(unchanged.check("dvc", "repro")) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"calibrate__smooth_quant_alpha": 0.8}, {"check_params", "probe", "calibrate", "export"}),
        ({"train__learning_rate": 3e-5}, {"check_params", "train", "export"}),
    ],
)
def test_a_changed_parameter_concerns_what_reads_it(
    unchanged: Project, values: dict[str, Any], expected: set[str]
) -> None:
    """What follows a stage that runs: `test_an_edit_of_gptq_runs_calibrate_and_what_follows`."""
    unchanged.set(**values)
    status = json.loads(unchanged.check("dvc", "status", "--json", "dvc.yaml").splitlines()[-1])
    assert status.keys() == expected


@pytest.mark.parametrize(("stage", "output"), [("finetune", "fp32"), ("train", "qat")])
def test_a_killed_stage_resumes_and_ends_with_the_same_model(
    unchanged: Project, stage: str, output: str
) -> None:
    wanted = unchanged.lock()[stage]
    # Forget that the stage ever ran: its lock entry, its outputs, and the run cache.
    lock = yaml.safe_load((unchanged.folder / "dvc.lock").read_text(encoding="utf-8"))
    del lock["stages"][stage]
    (unchanged.folder / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    shutil.rmtree(unchanged.folder / ".dvc/cache/runs", ignore_errors=True)
    shutil.rmtree(unchanged.folder / f"models/{output}")

    process = subprocess.Popen(
        ["dvc", "repro", "-s", stage],
        cwd=unchanged.folder,
        env=unchanged.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    state = f"models/checkpoints/{stage}/*/trainer/checkpoint-[23]/hashes.json"
    while not list(unchanged.folder.glob(state)):
        assert process.poll() is None, "the stage ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (unchanged.folder / f"models/{output}").exists()

    output_text = unchanged.check("dvc", "repro", "-s", stage)
    assert "resuming from step" in output_text
    assert unchanged.lock()[stage]["outs"] == wanted["outs"]
    assert not list((unchanged.folder / "models/checkpoints").glob("*/*"))


def test_the_gate_fails_after_the_metrics_are_written(unchanged: Project) -> None:
    """FP32's own answers become the gold ones, so that INT8 loses wherever it answers otherwise."""
    predictions = json.loads((unchanged.folder / "data/predictions/fp32.json").read_text("utf-8"))
    validation = unchanged.folder / "data/squad/validation.jsonl"
    examples = [
        replace(e, answers=(Span(predictions[e.id], e.context.index(predictions[e.id])),))
        for e in read_examples(validation)
    ]
    write_examples(validation, examples)
    metrics = unchanged.folder / "metrics/evaluation.json"
    metrics.unlink()
    unchanged.set(evaluate__max_f1_drop=0.0)
    done = unchanged.run("python", "-m", "stages.evaluate")
    assert done.returncode == 1
    assert "points of F1, more than evaluate.max_f1_drop (0)" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(metrics.read_text(encoding="utf-8"))["fp32"]["f1"] == 100


def test_one_question_from_the_command_line(reproduced: Project) -> None:
    done = reproduced.run(
        "python",
        "stages/infer.py",
        "--question",
        "Where do I live?",
        "--context",
        "My name is Sarah and I live in London",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "London\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--question", "Who?"], "--question is given and --context is empty"),
        (
            ["--question", "Who?", "--context", "Ada.", "--model", "none"],
            "--model: no model.onnx in none",
        ),
        (["--context", "Ada."], "--context is given and --question is empty"),
        (["--context", "Ada.", "--question", "  "], "--context is given and --question is empty"),
    ],
)
def test_half_a_question_is_an_error(reproduced: Project, arguments: list[str], says: str) -> None:
    done = reproduced.run("python", "-m", "stages.infer", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_broken_input_is_one_line_and_loses_nothing(unchanged: Project) -> None:
    before = (unchanged.folder / "data/output.csv").read_bytes()
    (unchanged.folder / "data/input.csv").write_text("Context,Question\na,\n", encoding="utf-8")
    what = "data/input.csv: row 1: Question is empty; fix or drop it, or set infer.on_error=keep"
    line = f"error: {what}\n"
    done = unchanged.run("python", "-m", "stages.infer")
    assert (done.returncode, done.stderr) == (1, line)
    done = unchanged.run("dvc", "repro", "infer")
    assert done.returncode != 0
    assert line in done.stderr
    assert (unchanged.folder / "data/output.csv").read_bytes() == before


def test_an_experiment_varies_parameters(unchanged: Project) -> None:
    """`dvc exp run -S`, and by the queue, in a copy; `make experiments` shows what they changed."""
    output = unchanged.check("dvc", "exp", "run", "-S", "infer.provider=CPUExecutionProvider")
    assert {*ran(output)} - {"check_params"} == {"infer"}  # that may come from the run cache
    back = "git restore params.yaml dvc.lock metrics && dvc checkout"  # as README says
    unchanged.check("sh", "-c", back)
    assert not ran(unchanged.check("dvc", "repro", "--dry"))
    unchanged.check(
        "dvc", "exp", "run", "--queue", "--name", "short", "-S", "decoding.max_answer_length=4"
    )
    unchanged.check("dvc", "exp", "run", "--run-all")
    shown = unchanged.check("dvc", "exp", "show", "--csv")
    table = list(csv.DictReader(shown.splitlines()))
    row = next(row for row in table if row["Experiment"] == "short")
    assert row["decoding.max_answer_length"] == "4"
    assert float(row["qat.f1"]) > 0
    lines = unchanged.check("make", "--dry-run", "experiments").splitlines()
    (command,) = (line for line in lines if "dvc exp show" in line)
    shown = unchanged.check("sh", "-c", f"COLUMNS=200 {command.partition(' ')[2]}")
    shown_columns = shown.splitlines()[1].split()
    assert shown_columns[0] == "Experiment"
    assert {"decoding.max_answer_length", "qat.f1"} <= {*shown_columns}
    assert not [name for name in shown_columns if name.startswith(("ptq.", "bert_qa", "loss"))]
