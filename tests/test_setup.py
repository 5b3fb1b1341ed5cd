"""scripts/setup.sh names what is missing, one line each, before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BASH = shutil.which("bash") or "/bin/bash"


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([], "no Python 3.10, 3.11 or 3.12 found"),
        (["python3"], "git not found"),
        (["python3", "git"], "no C++ compiler found"),
    ],
)
def test_a_missing_prerequisite_is_one_line(tmp_path: Path, tools: list[str], says: str) -> None:
    for tool in tools:
        (tmp_path / tool).symlink_to(sys.executable if tool == "python3" else "/bin/true")
    done = subprocess.run(
        [BASH, str(ROOT / "scripts/setup.sh"), str(tmp_path / "venv")],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_an_interpreter_that_is_too_old_or_new_is_not_taken(tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\nexit 1\n")  # what the version check says of it
    other.chmod(0o755)
    done = subprocess.run(
        [BASH, str(ROOT / "scripts/setup.sh"), str(tmp_path / "venv")],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no Python 3.10, 3.11 or 3.12 found" in done.stderr
