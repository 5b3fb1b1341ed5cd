"""Every stage once more, watched: the lock stays as it was, and what ran is in the digests."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tests.conftest import STAGES, Project, ran

WATCH = """
import atexit, json, os, sys, threading
names, checked = set(), {}

def note(frame, event, _):
    code = frame.f_code
    ours = checked.get(code.co_filename)
    if ours is None:
        ours = "/bert_qa/" in code.co_filename or "/stages/" in code.co_filename
        checked[code.co_filename] = ours
    if ours and code.co_flags & 2:  # CO_NEWLOCALS: no body of a class
        names.add(code.co_qualname)

def write():
    sys.settrace(None)
    with open(os.path.join(os.environ["WATCHED"], f"{stage}-{os.getpid()}.json"), "w") as out:
        json.dump(sorted(names), out)

stage = next((name[7:] for name in sys.orig_argv if name.startswith("stages.")), None)
if stage is not None:
    atexit.register(write)
    threading.settrace(note)
    sys.settrace(note)  # of calls alone, because it returns nothing that would see lines
"""
"""Writes the names of the project's functions that a stage ran: `sys.settrace` sees them all."""


@dataclass(frozen=True)
class Forced:
    """What a `dvc repro -f` of the reproduced project did."""

    ran: list[str]
    functions: dict[str, set[str]]
    """By stage, the project's functions that ran."""
    changed: str
    """Tracked files that differ from before, as git lists them: dvc.lock would be one."""


@pytest.fixture(scope="module")
def forced(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Forced:
    site, out = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("watched")
    (site / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    watched = Project.there(reproduced.folder)
    watched.env |= {"PYTHONPATH": str(site), "WATCHED": str(out), "OMP_NUM_THREADS": "1"}
    stages = ran(watched.check("dvc", "repro", "-f"))
    functions: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for file in out.iterdir():
        stage = file.name.partition("-")[0].rstrip("_")  # tokenize's script is tokenize_
        functions[stage] |= set(json.loads(file.read_text(encoding="utf-8")))
    return Forced(stages, functions, watched.git("status", "--porcelain"))


def test_the_lock_stays_as_it_was(forced: Forced) -> None:
    assert forced.ran == STAGES
    assert forced.changed == ""


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "digest"])
def test_every_function_that_runs_is_in_the_digest(
    reproduced: Project, forced: Forced, stage: str
) -> None:
    file = reproduced.folder / f"digests/{stage}.json"
    digest = json.loads(file.read_text(encoding="utf-8"))["code"]
    names = {
        name.partition(".<locals>")[0]
        for name in forced.functions[stage]
        if not name.startswith("<")  # of a module itself
    }
    assert "main" in names
    assert sorted(names - digest.keys()) == []
