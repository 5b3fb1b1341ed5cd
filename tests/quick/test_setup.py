"""scripts/setup.sh names what is missing, one line each, before it installs anything."""

from __future__ import annotations

import ensurepip
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

BASH = shutil.which("bash") or "/bin/bash"


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([], "no Python 3.11, 3.12 or 3.13 found"),
        (["python3"], "git not found"),
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


def test_help_is_help_and_no_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [BASH, str(ROOT / "scripts/setup.sh"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Makes a virtual environment")
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_is_too_old_or_new_is_not_taken(tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\nexit 1\n")  # as the version check ends in it
    other.chmod(0o755)
    done = subprocess.run(
        [BASH, str(ROOT / "scripts/setup.sh"), str(tmp_path / "venv")],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no Python 3.11, 3.12 or 3.13 found" in done.stderr


def test_what_a_newer_python_lacks_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\ncase $2 in *print*) echo 3.14 ;; *) exit 1 ;; esac\n")
    python.chmod(0o755)
    (tmp_path / "grep").symlink_to(shutil.which("grep") or "grep")
    done = subprocess.run(
        [BASH, str(ROOT / "scripts/setup.sh"), str(tmp_path / "venv")],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    says = r"error: python3 is Python 3.14, for which onnxruntime-openvino==\S+ has no wheel; .*\n"
    assert re.fullmatch(says, done.stderr)


PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import shutil

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return shutil.copy("project-1.0-py3-none-any.whl", wheel_directory).rpartition("/")[2]
"""
"""A project that is built with nothing to install first."""


def write_wheel(path: Path, name: str, source: str) -> None:
    """A wheel of one module."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


def test_pip_is_pinned_and_byte_code_is_compiled_at_install(tmp_path: Path) -> None:
    """On a requirement of one module that warns when it is compiled, and with no index to ask."""
    wheel = tmp_path / "warns-1.0-py3-none-any.whl"
    write_wheel(wheel, "warns", "'\\.'\n")
    write_wheel(tmp_path / "project-1.0-py3-none-any.whl", "project", "")
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "backend.py").write_text(BACKEND)
    pip = f"pip=={ensurepip.version()}"  # what a new environment has
    (tmp_path / "requirements.txt").write_text(f"{pip}  # via bert-qa\n./{wheel.name}\n")
    (tmp_path / "requirements-no-deps.txt").touch()
    setup = [BASH, str(ROOT / "scripts/setup.sh"), "venv"]
    env = {**os.environ, "PYTHON": sys.executable, "PIP_NO_COMPILE": "1", "PIP_NO_INDEX": "1"}
    subprocess.run(setup, cwd=tmp_path, env=env, check=True)
    python = tmp_path / "venv/bin/python"
    done = subprocess.run(
        [python, "-c", "import project, warns"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert list(tmp_path.glob("venv/lib/*/site-packages/__pycache__/warns.*.pyc"))

    (tmp_path / "requirements.txt").write_text("pip==0.0\n")
    done = subprocess.run(setup, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "error: pip could not install pip==0.0 (see above)" in done.stderr


def test_the_lock_pins_pip_and_is_for_the_pythons_that_setup_takes() -> None:
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(r"^pip==\d", lock, re.MULTILINE)
    assert "python_full_version < '3.11'" not in lock
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["uv"]["pip"]["python-version"] == "3.11"
    assert settings["project"]["requires-python"] == ">=3.11"


def test_every_folder_of_the_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("bert_qa/**/__init__.py")}
    packages = settings["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(folder.replace("/", ".") for folder in folders)
