"""What an edit makes DVC run again, and what it leaves: with DVC, on a reproduced project."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.azurite import Azurite
from tests.conftest import STAGES, Project, ran

PROFILED = """
import json, runpy, sys, threading
script, out = sys.argv[1:3]
sys.argv = [script]
names = set()

def note(frame, event, _):
    code = frame.f_code
    file = f"/{code.co_filename}"  # of the script itself a relative path
    ours = "/bert_qa/" in file or "/stages/" in file
    if event == "call" and ours and code.co_flags & 2:  # CO_NEWLOCALS: no body of a class
        names.add(code.co_qualname)

threading.setprofile(note)
sys.setprofile(note)
try:
    runpy.run_path(script, run_name="__main__")
finally:
    sys.setprofile(None)
    json.dump(sorted(names), open(out, "w"))
"""
"""Runs a script and writes the project's functions that ran: `sys.setprofile` sees them all."""


def edit(project: Project, file: str, old: str, new: str) -> None:
    """Replace a text in a file, where it stands once."""
    path = project.folder / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (file, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


def stale(project: Project) -> set[str]:
    """The stages that the next `dvc repro` would run for what they depend on."""
    status = json.loads(project.check("dvc", "status", "--json", "dvc.yaml").splitlines()[-1])
    return {
        stage
        for stage, entries in status.items()
        if any("changed deps" in entry for entry in entries if isinstance(entry, dict))
    }


def edit_nothing(source: str) -> str:
    """A comment behind every statement that takes one line, and more in every docstring."""
    lines = source.splitlines()
    tree = ast.parse(source)
    docstrings = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        and ast.get_docstring(node, clean=False) is not None
    ]
    for each in docstrings:
        at = (each.end_lineno or 0) - 1
        assert lines[at].endswith('"""')
        lines[at] = lines[at][:-3] + ' And more."""'
    text = {number for each in docstrings for number in range(each.lineno, (each.end_lineno or 0))}
    strings = {
        number
        for node in ast.walk(tree)
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.lineno != node.end_lineno
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Return) or node.lineno != node.end_lineno:
            continue
        if node.lineno not in strings | text:
            lines[node.lineno - 1] += "  # why not"
    return "\n".join(lines) + "\n"


def test_comments_and_docstrings_anywhere_run_nothing_but_digest(unchanged: Project) -> None:
    for folder in ("bert_qa", "stages"):
        for file in (unchanged.folder / folder).rglob("*.py"):
            source = file.read_text(encoding="utf-8")
            edited = edit_nothing(source)
            assert edited != source
            file.write_text(edited, encoding="utf-8")
    assert ran(unchanged.check("dvc", "repro")) == ["digest"]


def test_an_edit_of_the_csv_writer_runs_infer_alone(unchanged: Project) -> None:
    edit(
        unchanged,
        "bert_qa/table.py",
        "            journal.advance(progress)\n",
        "            journal.advance(progress)\n            del chunk\n",
    )
    assert ran(unchanged.check("dvc", "repro")) == ["digest", "infer"]
    assert "answer_table" in unchanged.git("diff", "-U0", "--", "digests/infer.json")


def test_an_edit_of_gptq_runs_calibrate_and_what_follows(unchanged: Project) -> None:
    edit(unchanged, "bert_qa/quantization/gptq.py", "DAMPING = 0.01", "DAMPING = 0.5")
    follows = STAGES[STAGES.index("calibrate") :]
    assert ran(unchanged.check("dvc", "repro")) == ["digest", "probe", *follows]
    diff = unchanged.git("diff", "-U0", "--", "digests/calibrate.json")
    assert re.findall(r'^\+ +"(\w+)"', diff, re.MULTILINE) == ["DAMPING"]


def test_another_version_of_a_library_runs_what_imports_it(unchanged: Project) -> None:
    file = unchanged.folder / "requirements.txt"
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"(?m)^nncf==\S+", "nncf==99.0", text), encoding="utf-8")
    unchanged.check("dvc", "repro", "digest")
    assert stale(unchanged) == {"probe", "calibrate", "train", "export"}


def test_moving_a_function_runs_nothing_but_digest(unchanged: Project) -> None:
    file = unchanged.folder / "bert_qa/quantization/channel_splitting.py"
    text = file.read_text(encoding="utf-8")
    start, end = text.index("def _shares("), text.index("def _split(")
    moved = f"import heapq\n\n\n{text[start:end].rstrip()}\n"
    (unchanged.folder / "bert_qa/shares.py").write_text(moved, encoding="utf-8")
    left = text[:start] + text[end:]
    left = left.replace("import heapq\n", "").replace(
        "from bert_qa.quantization.observing",
        "from bert_qa.shares import _shares\nfrom bert_qa.quantization.observing",
    )
    file.write_text(left, encoding="utf-8")
    assert ran(unchanged.check("dvc", "repro")) == ["digest"]
    assert unchanged.git("diff", "--", "digests") == ""


def test_a_new_knob_of_one_stage_runs_no_other(unchanged: Project) -> None:
    edit(
        unchanged,
        "bert_qa/params.py",
        "    repeats: Count\n",
        "    repeats: Count\n    warm: Count\n",
    )
    edit(unchanged, "params.yaml", "  repeats: 50\n", "  repeats: 50\n  warm: 3\n")
    assert ran(unchanged.check("dvc", "repro")) == ["digest", "check_params"]


def test_a_new_knob_of_quantized_training_leaves_fine_tuning(unchanged: Project) -> None:
    knob = "    distillation_weight: Fraction\n"
    edit(unchanged, "bert_qa/params.py", knob, f"{knob}    warm: Count\n")
    edit(
        unchanged,
        "params.yaml",
        "  distillation_weight: 1.0",
        "  warm: 3\n  distillation_weight: 1.0",
    )
    unchanged.check("dvc", "repro", "digest")
    assert not {"tokenize", "finetune", "teach", "calibrate", "evaluate"} & stale(unchanged)


def forget(project: Project, stage: str) -> None:
    """Make DVC think that a stage never ran, but for its run cache."""
    file = project.folder / "dvc.lock"
    lock = yaml.safe_load(file.read_text(encoding="utf-8"))
    for out in lock["stages"].pop(stage)["outs"]:
        path = project.folder / out["path"]
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    file.write_text(yaml.safe_dump(lock), encoding="utf-8")


def started(project: Project, stage: str) -> subprocess.Popen[bytes]:
    """A `dvc repro` of a stage, as if it had never run, with two checkpoints written."""
    forget(project, stage)
    process = subprocess.Popen(
        ["dvc", "repro", "--no-run-cache", "--single-item", stage],
        cwd=project.folder,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_checkpoint(project.folder, stage, process)
    return process


def wait_for_checkpoint(folder: Path, stage: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a stage has written its second checkpoint."""
    deadline = time.monotonic() + 300
    while not list(
        folder.glob(f"models/checkpoints/{stage}/*/trainer/checkpoint-[23]/hashes.json")
    ):
        assert process.poll() is None, "the stage ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_edit_while_a_stage_runs_leaves_it_stale(unchanged: Project) -> None:
    process = started(unchanged, "train")
    edit(unchanged, "bert_qa/training.py", "KEPT = 2\n", "KEPT = 3\n")
    assert process.wait(timeout=300) == 0
    assert stale(unchanged) == {"digest"}
    unchanged.check("dvc", "repro", "digest")
    assert stale(unchanged) == {"probe", "finetune", "train"}


def test_a_killed_training_goes_on_after_an_edit_of_a_docstring(unchanged: Project) -> None:
    wanted = unchanged.lock()["train"]["outs"]
    process = started(unchanged, "train")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for name in ("training", "files", "quantization/nncf_model"):
        file = unchanged.folder / f"bert_qa/{name}.py"
        file.write_text(edit_nothing(file.read_text(encoding="utf-8")), encoding="utf-8")
    output = unchanged.check("dvc", "repro", "--no-run-cache")
    assert ran(output) == ["digest", "train"]
    assert "resuming from step" in output
    assert unchanged.lock()["train"]["outs"] == wanted
    assert not list((unchanged.folder / "models/checkpoints").glob("*/*"))


def test_checkpoints_of_other_parameters_are_kept(unchanged: Project) -> None:
    """A run that was killed goes on after another one has run to its end."""
    wanted = unchanged.lock()["train"]["outs"]
    process = started(unchanged, "train")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    unchanged.set(train__learning_rate=2e-6)
    assert "resuming" not in unchanged.check("dvc", "repro", "--no-run-cache", "train")
    unchanged.set(train__learning_rate=1e-6)
    output = unchanged.check("dvc", "repro", "--no-run-cache", "train")
    assert "resuming from step" in output
    assert unchanged.lock()["train"]["outs"] == wanted
    shown = unchanged.check("python", "-m", "release.mirror_checkpoints", "remove")
    assert shown == "models/checkpoints: no unfinished runs\n"


def test_a_killed_experiment_of_the_queue_goes_on(unchanged: Project) -> None:
    """Experiments run in folders that DVC removes: what they did so far lies in the checkout."""
    unchanged.check("dvc", "exp", "run", "--queue", "--name", "one", "-S", "train.max_steps=5")
    process = subprocess.Popen(
        ["dvc", "exp", "run", "--run-all"],
        cwd=unchanged.folder,
        env=unchanged.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_checkpoint(unchanged.folder, "train", process)
    for each in psutil.process_iter(["cwd"]):  # DVC starts some in sessions of their own
        if (each.info["cwd"] or "").startswith(str(unchanged.folder)):
            each.kill()
    process.wait()
    runs = list((unchanged.folder / "models/checkpoints/train").iterdir())
    assert len(runs) == 1
    for lock in (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"):  # README: after a kill of DVC itself
        (unchanged.folder / lock).unlink(missing_ok=True)
    output = unchanged.check("dvc", "exp", "run", "-S", "train.max_steps=5")
    assert "resuming from step" in output
    assert not runs[0].exists()


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "digest"])
def test_every_function_that_runs_is_in_the_digest(
    reproduced: Project, tmp_path: Path, stage: str
) -> None:
    """In a copy with the inputs, so that the project keeps its outputs."""
    script = "tokenize_" if stage == "tokenize" else stage
    out = tmp_path / "names.json"
    copy = tmp_path / "project"
    shutil.copytree(reproduced.folder, copy, ignore=shutil.ignore_patterns(".dvc", ".git"))
    there = Project.there(copy)
    there.env |= {"OMP_NUM_THREADS": "1"}
    there.check("python", "-c", PROFILED, f"stages/{script}.py", str(out))
    digest = json.loads((copy / f"digests/{stage}.json").read_text(encoding="utf-8"))["code"]
    seen = {
        name.partition(".<locals>")[0]
        for name in json.loads(out.read_text(encoding="utf-8"))
        if not name.startswith("<")  # of a module itself
    }
    assert "main" in seen
    assert sorted(seen - digest.keys()) == []


def test_training_goes_on_in_a_second_clone(
    reproduced: Project, azurite: Azurite, tmp_path: Path
) -> None:
    """A VM is taken away; another gets its checkpoints from the container, and newer sources."""
    wanted = reproduced.lock()["train"]["outs"]
    clones = [reproduced.clone(tmp_path / name) for name in ("first", "second")]
    for clone in clones:
        clone.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
        clone.check("dvc", "cache", "dir", "--local", str(reproduced.folder / ".dvc/cache"))
        clone.check("dvc", "checkout", "-q")
        clone.check("python", "-m", "release.set_up", "--container", "evicted")
    first, second = clones
    process = started(first, "train")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    watch = subprocess.Popen(
        ["python", "-m", "release.mirror_checkpoints", "watch"], cwd=first.folder, env=first.env
    )
    time.sleep(5)
    watch.send_signal(signal.SIGTERM)
    assert watch.wait(timeout=60) == 0
    shutil.rmtree(first.folder)

    said = second.check("python", "-m", "release.mirror_checkpoints", "restore")
    assert "1 unfinished runs restored" in said
    for file in (second.folder / "bert_qa").rglob("*.py"):
        file.write_text(edit_nothing(file.read_text(encoding="utf-8")), encoding="utf-8")
    forget(second, "train")
    output = second.check("dvc", "repro", "--no-run-cache", "--single-item", "train")
    assert "resuming from step" in output
    assert second.lock()["train"]["outs"] == wanted


def test_make_repro_ends_with_what_each_stage_took(unchanged: Project) -> None:
    unchanged.set(infer__provider="CPUExecutionProvider")
    said = unchanged.check("python", "scripts/repro.py")
    table = said[said.index("\nstage  ") :].split("\n\n")[0]
    assert re.findall(r"^(\w+) +[\d.]+$", table, re.MULTILINE) == ["check_params", "infer", "all"]
    assert "data/output.csv" in said
    assert "seconds" not in unchanged.check("python", "scripts/repro.py")  # nothing ran
    unchanged.set(infer__provider="none")
    done = unchanged.run("python", "scripts/repro.py")
    assert done.returncode != 0
    assert "error: params.yaml: infer.provider: found 'none'" in done.stderr
    assert "seconds" not in done.stdout
