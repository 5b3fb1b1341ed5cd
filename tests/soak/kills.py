"""One large table, killed at many random points: what it costs, and whether a byte differs.

python -m tests.soak.kills --model FOLDER

Prints how many windows were begun in all, over those of a run that nobody disturbed. Ends with
status 1 if that is more than 1.05, if a run did not go on, or if the outputs differ.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml
from tqdm import tqdm

from tests.conftest import ROOT
from tests.soak.running import Running
from tests.soak.tables import write_table

UNDISTURBED, KILLED = "undisturbed", "killed"
"""The two runs, and their folders."""

MOST = 1.05
"""Windows that may be begun, over those that there are."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill -9 at random points of a table.")
    parser.add_argument("--model", type=Path, default=ROOT / "models/onnx/qat")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    print(f"seed {arguments.seed}, in {root}", flush=True)
    for name in (UNDISTURBED, KILLED):
        (root / name).mkdir()
        write_table(root / name / "input.csv", ROOT / "data/sample/validation.json", arguments.rows)
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["infer"] |= {"input": "input.csv", "output": "output.csv"}
        (root / name / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    model = arguments.model.resolve()
    begun = time.monotonic()
    finish(start(root / UNDISTURBED, model))
    seconds, windows = time.monotonic() - begun, counted(root / UNDISTURBED)
    print(f"undisturbed: {arguments.rows} rows, {windows} windows, {seconds:.0f} s", flush=True)

    draw = random.Random(arguments.seed)
    points = sorted(int(draw.random() * windows) for _ in range(arguments.kills))
    begun = time.monotonic()
    went_on = 0
    for number, point in enumerate(tqdm(points, desc="kills", unit="kill")):
        running = start(root / KILLED, model)
        while counted(root / KILLED) < point:
            if running.process.poll() is not None:
                raise RuntimeError(f"ended before it was killed: {running.said()[-2000:]}")
            time.sleep(0.01)
        running.process.kill()
        running.process.wait()
        went_on += number == 0 or "afresh" not in running.said()
    said = finish(start(root / KILLED, model))
    went_on += "afresh" not in said
    share = counted(root / KILLED) / windows
    expected, found = ((root / name / "output.csv").read_bytes() for name in (UNDISTURBED, KILLED))
    same = found == expected
    print("at the last: " + ", ".join(re.findall(r"going on after row \d+ of \d+", said)))
    print(
        f"{arguments.kills} kills: {went_on} of {arguments.kills + 1} runs went on,"
        f" {share:.4f} of the windows begun, {time.monotonic() - begun:.0f} s;"
        f" the output is {'the same' if same else 'another'}"
    )
    if not same or share > MOST or went_on <= arguments.kills:
        return 1
    shutil.rmtree(root)
    return 0


def start(place: Path, model: Path) -> Running:
    """Begin to answer the table of a folder."""
    command = [sys.executable, str(ROOT / "tests/counted.py"), str(model), "counts"]
    return Running(command, place / "log", cwd=place)


def finish(running: Running) -> str:
    """Wait for a run that must go through; what it said."""
    status = running.process.wait()
    if status != 0:
        raise RuntimeError(f"status {status}: {running.said()[-2000:]}")
    return running.said()


def counted(place: Path) -> int:
    """How many windows were begun in a folder, by all runs."""
    file = place / "counts"
    return sum(map(int, file.read_text(encoding="ascii").split())) if file.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
