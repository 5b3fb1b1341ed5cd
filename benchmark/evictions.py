"""What spot machines that are taken away cost a table, by how large the parts of it are.

python -m benchmark.evictions [--rows N] [--rate R] [--machines M]

A part that was not finished is answered again. Machines are taken away at random, each at a rate
an hour, and replaced after a while; Azure publishes rates of 0-5, 5-10, 10-15, 15-20 and more than
20 percent an hour (its documentation of Spot VMs, "Pricing and eviction history").
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import heapq

import numpy as np
from tabulate import tabulate

from bert_qa.errors import run

RATES = (0.05, 0.10, 0.20, 0.40)
"""Machines taken away an hour, as shares."""

REPLACED_AFTER = 8 / 60
"""Hours until another machine is there and has installed what it needs: an assumption."""

SESSIONS = 4
"""Of a machine of 16 processors, each with a part."""


def overhead(part_hours: float, rate: float) -> float:
    """How much longer a part takes for what is lost of it, as a share.

    With evictions at a rate r an hour, a part of t hours is finished after (exp(r t) - 1) / r hours
    of computing on average (the time to a run of t without an event of a Poisson process).

    Args:
        part_hours: to answer a part.
        rate: share of the machines that are taken away in an hour.
    """
    hourly = -np.log1p(-rate)
    return float(np.expm1(hourly * part_hours) / (hourly * part_hours) - 1)


def simulate(parts: int, part_hours: float, rate: float, machines: int, seed: int) -> float:
    """Hours until all parts are answered, on machines that are taken away and replaced.

    Args:
        parts: how many there are, given out one after the other.
        machines: how many run at a time, each with `SESSIONS` parts at a time.
    """
    draw = np.random.default_rng(seed)
    hourly = -np.log1p(-rate)
    left = parts
    # The next event of each machine: when it is free for further parts, or there again.
    events = [(0.0, machine) for machine in range(machines)]
    gone = draw.exponential(1 / hourly, machines)
    last = 0.0
    while left > 0 and events:
        now, machine = heapq.heappop(events)
        taken = min(SESSIONS, left)
        if gone[machine] < now + part_hours:  # these parts are lost, and given out again
            back = gone[machine] + REPLACED_AFTER
            gone[machine] = back + draw.exponential(1 / hourly)
            heapq.heappush(events, (back, machine))
            continue
        left -= taken
        last = max(last, now + part_hours)
        heapq.heappush(events, (now + part_hours, machine))
    return last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--rate", type=float, default=180.0, help="rows a second of a session")
    parser.add_argument("--machines", type=int, default=50)
    arguments = parser.parse_args()
    rows = []
    for part in (2_048, 32_768, 262_144, 2_097_152):
        hours = part / arguments.rate / 3600
        ideal = arguments.rows / arguments.rate / 3600 / arguments.machines / SESSIONS
        count = int(np.ceil(arguments.rows / part))
        cells: list[str] = [f"{part:,}", f"{count:,}", f"{hours * 60:,.0f}"]
        for rate in RATES:
            runs = [
                simulate(count, hours, rate, arguments.machines, seed) / ideal - 1
                for seed in range(5)
            ]
            cells.append(f"{np.mean(runs):+.0%} ({overhead(hours, rate):+.0%})")
        rows.append(cells)
    headers = ["rows a part", "parts", "minutes a part", *(f"{rate:.0%} an hour" for rate in RATES)]
    print(tabulate(rows, headers=headers, tablefmt="github", stralign="right"))


if __name__ == "__main__":
    run(main)
