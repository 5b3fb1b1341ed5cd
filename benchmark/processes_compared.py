"""Quantization-aware training by one process and by two: losses over steps, and scores.

Runs two experiments in copies of the project, from the parameters here but for `SETTINGS`; what
the cache has of them is not computed again. Writes the losses as CSV and as a picture.
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
import time
from collections.abc import Callable
from pathlib import Path

import dvc.api
import pandas as pd
from tabulate import tabulate

from bert_qa.errors import UserError, run
from bert_qa.files import whole_file

LOSS, SCORES = "metrics/train/plots/metrics/loss.tsv", "metrics/evaluation.json"
OUT = Path("metrics/processes.csv")
PROCESSES = (1, 2)
SETTINGS = {"train.distillation_weight": 0.5, "train.learning_rate": 2e-5}
"""With labels in the loss: of the FP32 model alone there is next to nothing to learn by default."""


def main() -> None:
    names = {}
    for count in PROCESSES:
        names[count] = f"processes-{count}-{time.strftime('%Y%m%d-%H%M%S')}"
        command = ["dvc", "exp", "run", "--temp", "--name", names[count]]
        for key, value in (SETTINGS | {"train.processes": count}).items():
            command += ["-S", f"{key}={value}"]
        if subprocess.run(command, check=False).returncode:  # noqa: S603
            raise UserError(f"training by {count} of {max(PROCESSES)} processes failed, see above")
    losses = read_losses(lambda count: dvc.api.read(LOSS, rev=names[count]))
    with whole_file(OUT) as partial:
        losses.to_csv(partial, index=False, lineterminator="\n")
    with whole_file(OUT.with_suffix(".png")) as partial:
        draw(losses, partial)
    rows = []
    for count, name in names.items():
        qat = json.loads(dvc.api.read(SCORES, rev=name))["qat"]
        rows.append([count, *(qat[key] for key in ("exact_match", "f1", "same_answers"))])
    headers = ["processes", "exact match", "F1", "same answers as FP32"]
    print(tabulate(rows, headers, floatfmt=("", ".2f", ".2f", ".1f")))
    print(f"{OUT}: {len(losses)} losses")


def read_losses(read: Callable[[int], str]) -> pd.DataFrame:
    """Read the losses of all numbers of processes.

    Args:
        read: gives DVCLive's file for a number of processes.

    Returns:
        Columns `processes`, `step` and `loss`.
    """
    tables = [
        pd.read_csv(io.StringIO(read(count)), sep="\t").assign(processes=count)
        for count in PROCESSES
    ]
    return pd.concat(tables)[["processes", "step", "loss"]]


def draw(losses: pd.DataFrame, path: Path) -> None:
    """Draw the losses of each number of processes into a PNG; `losses` as `read_losses` gives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for count, style in zip(PROCESSES, ("o-", "s--"), strict=True):
        some = losses[losses["processes"] == count]
        label = f"train.processes={count}"
        axes.plot(some["step"], some["loss"], style, markersize=4, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title("Quantization-aware training", loc="left", fontweight="bold", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})


if __name__ == "__main__":
    run(main)
