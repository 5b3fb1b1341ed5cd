"""What each machine of cloud/ml/answer.yml runs: `init` once, `run` for every few files.

Azure ML's parallel job calls these two by their names, in the project's folder, which is the job's
code. Answers are as `bert-qa answer` writes them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ARGUMENTS = argparse.Namespace()


def init() -> None:
    """Install the package at its pinned versions, before the first files come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    parser.parse_known_args(namespace=ARGUMENTS)  # Azure ML adds arguments of its own
    _run(sys.executable, "-m", "pip", "install", "--quiet", "-c", "requirements.txt", ".[tables]")


def run(files: list[str]) -> list[str]:
    """Answer some files; what has an error is tried again by Azure ML.

    Returns:
        A line for each file, which Azure ML counts.
    """
    for file in files:
        output = ARGUMENTS.answers / Path(file).relative_to(ARGUMENTS.tables)
        output.parent.mkdir(parents=True, exist_ok=True)
        _run("bert-qa", "answer", file, "--output", str(output), "--model", ARGUMENTS.model)
    return files


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise RuntimeError(done.stderr.strip())  # its line, in the log of the mini batch
