"""`dvc repro`, and then what each stage took and what the run made: `make repro`."""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import subprocess
import sys
from pathlib import Path

from tabulate import tabulate

from bert_qa.errors import run
from bert_qa.stage_costs import Cost, noted, table

MADE = {
    "models/bert-qa-int8": "the INT8 model with its card",
    "data/output.csv": "answers to data/input.csv",
    "metrics/evaluation.json": "FP32, PTQ and QAT compared: `dvc metrics show`",
}


def main() -> None:
    signal.signal(signal.SIGINT, lambda *_: None)  # DVC answers it, and this by DVC's status
    costs: list[Cost] = []
    with noted(costs) as environment:
        command = ["dvc", "repro", *sys.argv[1:]]
        done = subprocess.run(command, check=False, env=environment)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode)
    if costs:
        print(f"{table(costs)}\n")
    print(tabulate([(path, what) for path, what in MADE.items() if Path(path).exists()]))


if __name__ == "__main__":
    run(main)
