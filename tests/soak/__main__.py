"""Hours of random kills, damage and bad input over tables, reproductions and experiments.

python -m tests.soak --hours 1

Works in copies of a small project that it reproduces first; takes them from `--base`, if one lies
there. Ends with status 1 if anything was lost, if bytes differ from those of an undisturbed run, if
a traceback or no clear line was to be seen, or if a command did not end. Ctrl-C ends it early.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import SMALL, Project
from tests.soak.pipeline import Pipeline
from tests.soak.report import Report
from tests.soak.running import Runner, UndisturbedError
from tests.soak.tables import Tables


def main() -> int:
    parser = argparse.ArgumentParser(description="Random kills, damage and bad input.")
    parser.add_argument("--hours", type=float, default=1, help="after the reproduction")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--report", type=Path, default=Path(".cache/soak.json"))
    parser.add_argument("--base", type=Path, help="a reproduced project; made if not there")
    parser.add_argument("--only", help="kinds of trials whose names have this in them")
    arguments = parser.parse_args()
    # Whoever starts this in the background has Ctrl-C ignored, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    report = Report(arguments.seed)
    print(f"seed {arguments.seed}, in {root}", flush=True)
    try:
        soak(root, report, arguments)
    except KeyboardInterrupt:
        print("ended early", flush=True)
    finally:
        arguments.report.parent.mkdir(exist_ok=True)
        report.write(arguments.report)
        print(f"{report}\n{arguments.report}")
    if report.faults:
        print(f"to be looked at: {root}")
        return 1
    shutil.rmtree(root, ignore_errors=True)  # an orphan may still write to it
    return 0


def soak(root: Path, report: Report, arguments: argparse.Namespace) -> None:
    """Try one thing after the other until the time is over."""
    draw = random.Random(arguments.seed)
    base = reproduced(arguments.base or root / "base")
    base.env |= {"DVC_SITE_CACHE_DIR": str(root / "site"), "OMP_NUM_THREADS": "2"}
    (root / "logs").mkdir()
    runner = Runner(base.env, root / "logs", draw, report)
    tables = Tables(root / "tables", base.folder, base.folder / "models/onnx/qat", runner)
    pipeline = Pipeline(root / "pipeline", base, runner)
    kinds: dict[Callable[[], None], float] = {
        tables.killed: 4,
        tables.bad_tables: 2,
        tables.bad_places: 1,
        tables.bad_models: 1,
        pipeline.killed: 4,
        pipeline.killed_experiment: 2,
        pipeline.bad_params: 1,
        pipeline.bad_data: 1,
        pipeline.bad_inputs_of_stages: 1,
    }
    """What is tried, with its share of the time."""
    spent = {kind: draw.random() for kind in kinds if (arguments.only or "") in kind.__qualname__}
    end = time.monotonic() + arguments.hours * 3600
    try:
        while time.monotonic() < end:
            kind = min(spent, key=lambda kind: spent[kind] / kinds[kind])
            begun = time.monotonic()
            try:
                kind()
            except UndisturbedError as error:
                report.fault("unclear", kind.__qualname__, f"undisturbed: {error}")
            took = time.monotonic() - begun
            spent[kind] += took
            print(f"{kind.__qualname__}: {took:.0f} s, {len(report.faults)} faults", flush=True)
    finally:
        runner.end()


def reproduced(folder: Path) -> Project:
    """The project with small parameters and a small model, reproduced; taken as it lies there.

    Of a BERT of two layers a stage takes as long as its imports, so that there can be many.
    """
    if (folder / "dvc.lock").exists():
        return Project.there(folder.resolve())
    folder.mkdir(parents=True)
    project = Project(folder.resolve())
    model = folder.resolve().with_name(f"{folder.name}-model")  # for all copies the same
    project.set(
        **{**SMALL, "evaluate__max_f1_drop": 100.0},
        model__name="folder",
        model__folder=str(model),
    )
    print("one reproduction first", flush=True)
    shape = ["--layers", "2", "--hidden-size", "64"]
    project.check("python", "-m", "benchmark.random_checkpoint", "--out", str(model), *shape)
    project.check("dvc", "repro")
    project.commit("reproduced")
    return project


if __name__ == "__main__":
    sys.exit(main())
