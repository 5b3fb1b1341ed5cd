"""A million rows: speed, memory and output over time, on this machine or through Ray on it.

python -m benchmark.million --model FOLDER [--source FILE] [--rows N] [--minutes M] [--cluster auto]

Asks the questions of a SQuAD file over and over on their contexts as they are. What has not ended
after M minutes is stopped there; it would go on with the same command. Writes a CSV and a picture.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import csv
import itertools
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import psutil

from bert_qa.errors import UserError, run
from bert_qa.files import whole_file
from bert_qa.squad import read_questions


@dataclass(frozen=True)
class Sample:
    """What was seen at one time.

    Attributes:
        rows: answered so far.
        memory_mb: of all processes, what none shares with another.
        written_mb: of the output.
    """

    seconds: float
    rows: int
    memory_mb: float
    written_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("models/bert-qa-int8"))
    parser.add_argument("--source", type=Path, default=Path("data/sample/validation.json"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--cluster", help="as `bert-qa answer` takes it")
    parser.add_argument("--folder", type=Path, default=Path("data/million"), help="for the tables")
    parser.add_argument("--out", type=Path, default=Path("metrics/million.csv"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table = arguments.folder / f"{arguments.rows}.csv"
    if not table.exists():
        write_table(table, arguments.source, arguments.rows)
    answers = arguments.folder / ("answers-ray.csv" if arguments.cluster else "answers.csv")
    command = ["bert-qa", "answer", str(table), "--output", str(answers)]
    command += ["--model", str(arguments.model)]
    command += ["--cluster", arguments.cluster] if arguments.cluster else []
    samples = list(watch(command, answers, 60 * arguments.minutes))
    if not samples:
        raise UserError(f"{table}: answered before anything was seen of it; give more --rows")
    with (
        whole_file(arguments.out) as partial,
        partial.open("w", encoding="utf-8", newline="") as out,
    ):
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([field.name for field in fields(Sample)])
        writer.writerows([f"{value:.1f}" for value in astuple(sample)] for sample in samples)
    draw(samples, arguments.out.with_suffix(".png"))
    first, last = samples[0], samples[-1]
    print(
        f"{last.rows} rows in {last.seconds:.0f} s,"
        f" {(last.rows - first.rows) / (last.seconds - first.seconds or 1):.1f} a second;"
        f" memory {max(sample.memory_mb for sample in samples):.0f} MB at most; output"
        f" {last.written_mb:.0f} MB: {arguments.out}"
    )


def write_table(path: Path, source: Path, rows: int) -> None:
    """Write a table of a file's questions over and over."""
    examples = read_questions(source)
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["Context", "Question"])
        endless = itertools.cycle(examples)
        writer.writerows((e.context, e.question) for e in itertools.islice(endless, rows))


def watch(command: list[str], output: Path, seconds: float) -> Iterator[Sample]:
    """Run a command that answers a table; yield a sample for each line of its progress.

    Args:
        seconds: after which it is stopped.

    Raises:
        UserError: it failed.
    """
    began = time.monotonic()
    stopped = False
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603
    assert running.stderr is not None  # noqa: S101
    for line in running.stderr:
        found = re.search(r": (\d+) of \d+ rows ", line)
        if found is None:
            print(line, end="", flush=True)
            continue
        passed = time.monotonic() - began
        yield Sample(passed, int(found[1]), _memory(running.pid), _written(output))
        if passed > seconds and not stopped:
            running.send_signal(signal.SIGINT)
            stopped = True
    if running.wait() and not stopped:
        raise UserError(f"bert-qa answer: ended with {running.returncode}; its message is above")


def _memory(pid: int) -> float:
    """MB of a process and all that it started, each page counted once."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total / 1e6


def _written(output: Path) -> float:
    """MB of an output, finished or not."""
    folder = output.with_name(f".{output.name}.partial")
    files = [output] if output.exists() else [file for file in folder.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def draw(samples: list[Sample], path: Path) -> None:
    """Draw rows a second and memory over the rows that were answered."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    speed, memory = figure.subplots(2, 1, sharex=True)
    rows = [sample.rows for sample in samples]
    pairs = list(itertools.pairwise(samples))
    rates = [(b.rows - a.rows) / (b.seconds - a.seconds or 1) for a, b in pairs]
    speed.plot(rows[1:], rates)
    speed.set_ylabel("rows a second")
    memory.plot(rows, [sample.memory_mb for sample in samples], label="memory")
    memory.plot(rows, [sample.written_mb for sample in samples], label="output")
    memory.set_ylabel("MB")
    memory.set_xlabel("rows answered")
    for axes in (speed, memory):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    memory.legend()
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    run(main)
