"""The package in an environment of its own: small, without torch, and with the same answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project, other_python


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_package_answers_alone(reproduced: Project, tmp_path: Path, version: str) -> None:
    """On each Python that is here, installed from a copy and with no compiler on PATH."""
    python = other_python(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    venv, source = tmp_path / "venv", tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "bert_qa", source / "bert_qa")
    (tmp_path / "bin").mkdir()
    env = {**os.environ, "PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([python, "-m", "venv", venv], check=True)
    pip: list[str | Path] = [
        venv / "bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    installed = subprocess.run(
        [*pip, "--constraint", ROOT / "requirements-answer.txt", source],
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )
    if "NewConnectionError" in installed.stderr:
        pytest.skip("no package index to be reached")
    assert installed.returncode == 0, installed.stderr
    files = [file for file in venv.rglob("*") if file.is_file() and not file.is_symlink()]
    assert sum(file.stat().st_size for file in files) < 600e6
    assert not list(venv.glob("lib/*/site-packages/torch"))

    model, table = (reproduced.folder / path for path in ("models/bert-qa-int8", "data/input.csv"))
    done = subprocess.run(
        [venv / "bin/bert-qa", "answer", table, "-o", "out.csv", "--model", model],
        cwd=tmp_path,
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wanted = (reproduced.folder / "data/output.csv").read_bytes()
    assert (tmp_path / "out.csv").read_bytes() == wanted
