"""Stages that are killed or overtaken by an edit, and what the next run takes up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil

from tests.azurite import Azurite
from tests.conftest import Project, ran
from tests.edits import edit, edit_nothing, forget, stale, started, wait_for_checkpoint


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
    for lock in (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"):  # docs/experiments.md, After a kill
        (unchanged.folder / lock).unlink(missing_ok=True)
    output = unchanged.check("dvc", "exp", "run", "-S", "train.max_steps=5")
    assert "resuming from step" in output
    assert not runs[0].exists()


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
