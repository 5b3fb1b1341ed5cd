"""What each script of a run took, in seconds and memory: noted by it, shown by who ran it.

The file of the notes is named in the environment, so that stages which DVC starts find it. Nothing
of it reaches a tracked output.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

NOTES = "STAGE_COSTS"
"""The environment variable with the file."""


class Cost(NamedTuple):
    """What a script took, with what DVC did before it.

    Attributes:
        gigabytes: of memory at the most, of it or of one process that it started.
    """

    stage: str
    seconds: float
    gigabytes: float


def note() -> None:
    """Add this script to the notes, where somebody wants them."""
    file = os.environ.get(NOTES)
    if file is None:
        return
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    kilobytes = max(resource.getrusage(each).ru_maxrss for each in who)
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0].rstrip("_")
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(f"{name} {time.time()} {kilobytes / 1e6}\n")


@contextmanager
def noted(costs: list[Cost]) -> Iterator[dict[str, str]]:
    """Yield an environment whose scripts note what they take; `costs` has it after the block.

    Scripts run one after the other, so that each takes from the end of the one before.
    """
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", prefix="costs-") as notes:
        before = time.time()
        yield os.environ | {NOTES: notes.name}
        for line in Path(notes.name).read_text(encoding="utf-8").splitlines():
            stage, ended, gigabytes = line.split()
            costs.append(Cost(stage, float(ended) - before, float(gigabytes)))
            before = float(ended)


def table(costs: list[Cost]) -> str:
    """The costs of a run, and of all of it; empty where nothing ran."""
    from tabulate import tabulate

    if not costs:
        return ""
    most = max(cost.gigabytes for cost in costs)
    rows = [*costs, Cost("all", sum(cost.seconds for cost in costs), most)]
    shown: str = tabulate(rows, headers=["stage", "seconds", "GB at most"], floatfmt=".1f")
    return shown
