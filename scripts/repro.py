"""`dvc repro`, and then what each stage took and what the run made: `make repro`."""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from bert_qa.errors import TIMES, run

MADE = {
    "models/bert-qa-int8": "the INT8 model with its card",
    "data/output.csv": "answers to data/input.csv",
    "metrics/evaluation.json": "FP32, PTQ and QAT compared: `dvc metrics show`",
}


def main() -> None:
    signal.signal(signal.SIGINT, lambda *_: None)  # DVC answers it, and this by DVC's status
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", prefix="times-") as times:
        command = ["dvc", "repro", *sys.argv[1:]]
        environment = os.environ | {TIMES: times.name}
        before = time.time()
        done = subprocess.run(command, check=False, env=environment)  # noqa: S603
        ends = [line.split() for line in times]
    if done.returncode:
        sys.exit(done.returncode)
    rows: list[tuple[str, float]] = []
    for script, ended in ends:  # one after the other, DVC's own work between them included
        rows.append((Path(script).stem.rstrip("_"), float(ended) - before))
        before = float(ended)
    if rows:
        rows.append(("all", sum(seconds for _, seconds in rows)))
        print(tabulate(rows, headers=["stage", "seconds"], floatfmt=".1f"))
        print()
    print(tabulate([(path, what) for path, what in MADE.items() if Path(path).exists()]))


if __name__ == "__main__":
    run(main)
