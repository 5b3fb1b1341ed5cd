"""How often stages became stale over this repository's history, by files and by digests of code.

A maintainer's script. By files is how it was: a stage depended on every module that it imports. By
digests is how it is: `bert_qa.code_digests` on the sources of each commit; "today's" counts changes
of what the stage reaches today, after windows and the teacher's logits have become data. Changes of
libraries' versions, which by files nothing depended on, are counted apart.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import io
import json
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from bert_qa.code_digests import Sources, pinned, read_pins
from bert_qa.errors import UserError, run
from bert_qa.files import hash_file

FOLDERS = ("bert_qa", "qa", "benchmark", "stages")
"""Of code, today's and those of earlier commits."""


def main() -> None:
    log = _git("log", "--first-parent", "--reverse", "--format=%H", "HEAD").decode().split()
    today = {
        file.stem: set(json.loads(file.read_text(encoding="utf-8"))["code"])
        for file in Path("digests").glob("*.json")
    }
    counts: dict[str, Counter[str]] = {}
    before: dict[str, dict[str, Any]] = {}
    for commit in log:
        with tempfile.TemporaryDirectory() as name:
            now = _stages(commit, Path(name))
        for stage in now.keys() & before.keys():
            count = counts.setdefault(stage, Counter())
            for kind in ("files", "digests", "libraries"):
                count[kind] += now[stage][kind] != before[stage][kind]
            names = today.get(stage, set())
            count["today"] += any(
                now[stage]["digests"].get(name) != before[stage]["digests"].get(name)
                for name in names
            )
        before = now or before
    kinds = ("files", "digests", "today", "libraries")
    rows = [(stage, *(count[kind] for kind in kinds)) for stage, count in sorted(counts.items())]
    rows.append(("all", *(sum(count[kind] for count in counts.values()) for kind in kinds)))
    print(f"{len(log)} commits")
    headers = ["stage", "by files", "by digests", "today's", "libraries"]
    print(tabulate(rows, headers=headers))


def _stages(commit: str, folder: Path) -> dict[str, dict[str, Any]]:
    """By stage with code of the project, what stands for that code at a commit."""
    paths = [path for path in ("dvc.yaml", "requirements.txt", *FOLDERS) if _has(commit, path)]
    folders = [path for path in paths if path in FOLDERS]
    if not {"dvc.yaml", "stages"} <= set(paths):
        return {}
    archive = io.BytesIO(_git("archive", commit, *paths))
    with tarfile.open(fileobj=archive) as files:
        files.extractall(folder, filter="data")
    workflow = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    try:
        sources = Sources(folder, folders, refuse=False)
    except UserError:
        return {}
    pins = read_pins([folder / "requirements.txt"]) if "requirements.txt" in paths else {}
    found = {}
    for stage, entry in workflow.items():
        script = entry["cmd"].split()[-1].removesuffix(".py").replace("/", ".")
        if script not in sources.modules or stage == "digest":
            continue
        reached = sources.reached(script)
        modules = {each.module for each in reached} | sources.imported(script)
        found[stage] = {
            "files": {module: hash_file(sources.files[module]) for module in sorted(modules)},
            "digests": sources.digests(reached),
            "libraries": pinned(sources.libraries(reached), pins),
        }
    return found


def _has(commit: str, path: str) -> bool:
    return bool(_git("ls-tree", commit, path))


def _git(*arguments: str) -> bytes:
    command = ["git", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603


if __name__ == "__main__":
    run(main)
