"""What tests of reruns do to a project: edit its code, and kill its stages."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import time
from pathlib import Path

import yaml

from tests.conftest import Project


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
