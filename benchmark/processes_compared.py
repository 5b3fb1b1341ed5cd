"""Quantization-aware training by one process and by several: losses over steps, and F1.

python -m benchmark.processes_compared [--processes 2]

Runs two experiments in copies of the project; what the cache has of them is not computed again.
Writes the losses as CSV and as a picture, and prints what both models score.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import io
import json
import subprocess
import time
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from bert_qa.errors import UserError, run
from bert_qa.files import whole_file

LOSS, SCORES = "metrics/train/plots/metrics/loss.tsv", "metrics/evaluation.json"
OUT = Path("metrics/processes.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    processes = parser.parse_args().processes
    losses, rows = [], []
    for count in (1, processes):
        name = f"processes-{count}-{time.strftime('%Y%m%d-%H%M%S')}"
        _run("dvc", "exp", "run", "--temp", "--name", name, "-S", f"train.processes={count}")
        # Named so by DVC; the commit has what git tracks, losses and scores among it.
        (reference,) = _output("git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}")
        table = pd.read_csv(
            io.StringIO("\n".join(_output("git", "show", f"{reference}:{LOSS}"))), sep="\t"
        )
        losses.append(table.assign(processes=count))
        scores = json.loads("\n".join(_output("git", "show", f"{reference}:{SCORES}")))
        qat = scores["qat"]
        rows.append([count, qat["exact_match"], qat["f1"], qat["same_answers"], qat["divergence"]])
    everything = pd.concat(losses)[["processes", "step", "loss"]]
    with whole_file(OUT) as partial:
        everything.to_csv(partial, index=False, lineterminator="\n")
    with whole_file(OUT.with_suffix(".png")) as partial:
        draw(everything, partial)
    headers = ["processes", "exact match", "F1", "same answers as FP32", "divergence"]
    print(tabulate(rows, headers, floatfmt=("", ".2f", ".2f", ".1f", ".4f")))
    print(f"{OUT}: losses of {len(everything)} steps")


def draw(losses: pd.DataFrame, path: Path) -> None:
    """Draw the losses of each number of processes into a PNG.

    Args:
        losses: columns `processes`, `step` and `loss`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for (count, some), style in zip(losses.groupby("processes"), ("o-", "s--"), strict=True):
        axes.plot(some["step"], some["loss"], style, markersize=4, label=f"{count} processes")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title("Quantization-aware training", loc="left", fontweight="bold", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:  # noqa: S603
        raise UserError(f"{' '.join(command)} failed, see above")


def _output(*command: str) -> list[str]:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])} failed, see above")
    return done.stdout.splitlines()


if __name__ == "__main__":
    run(main)
