"""What runs in a stage is in its digest: every function, seen at work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import STAGES, Project

TRACED = """
import json, runpy, sys, threading
script, out = sys.argv[1:3]
sys.argv = [script]
names, checked = set(), {}

def note(frame, event, _):
    code = frame.f_code
    ours = checked.get(code.co_filename)
    if ours is None:
        file = f"/{code.co_filename}"  # of the script itself a relative path
        ours = checked[code.co_filename] = "/bert_qa/" in file or "/stages/" in file
    if ours and code.co_flags & 2:  # CO_NEWLOCALS: no body of a class
        names.add(code.co_qualname)

threading.settrace(note)
sys.settrace(note)  # told of calls alone, because it returns nothing that would be told of lines
try:
    runpy.run_path(script, run_name="__main__")
finally:
    sys.settrace(None)
    json.dump(sorted(names), open(out, "w"))
"""
"""Runs a script and writes the project's functions that ran: `sys.settrace` sees them all."""


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "digest"])
def test_every_function_that_runs_is_in_the_digest(
    reproduced: Project, tmp_path: Path, stage: str
) -> None:
    """In a copy of links: what a stage writes takes their place, and the project keeps its own."""
    script = "tokenize_" if stage == "tokenize" else stage
    out = tmp_path / "names.json"
    copy = tmp_path / "project"
    hidden = shutil.ignore_patterns(".dvc", ".git")
    shutil.copytree(reproduced.folder, copy, ignore=hidden, copy_function=os.link)
    there = Project.there(copy)
    there.env |= {"OMP_NUM_THREADS": "1"}
    there.check("python", "-c", TRACED, f"stages/{script}.py", str(out))
    digest = json.loads((copy / f"digests/{stage}.json").read_text(encoding="utf-8"))["code"]
    seen = {
        name.partition(".<locals>")[0]
        for name in json.loads(out.read_text(encoding="utf-8"))
        if not name.startswith("<")  # of a module itself
    }
    assert "main" in seen
    assert sorted(seen - digest.keys()) == []
