"""The benchmark as a picture: throughput with F1, latency, and the growth of a long table.

Draws what `benchmark.measure.report` says and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # a file, never a window

from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter, ScalarFormatter

from benchmark.contenders import CONTENDERS

OURS, OTHERS = "#1b6ca8", "#9aa5b1"


def draw(
    contenders: Mapping[str, Mapping[str, float]],
    growth: Sequence[Mapping[str, float]],
    lengths: Sequence[int],
    title: str,
    path: Path,
) -> None:
    """Draw a report into a PNG.

    Args:
        contenders: by name, the figures of `report`, with `f1` where there are gold answers.
        growth: what `benchmark.measure.growth` says.
        lengths: of single questions in tokens, for the latencies in `contenders`.
        path: file to write.
    """
    figure = plt.figure(figsize=(13.5, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1), height_ratios=(1.7, 1))
    left, right = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
    below = figure.add_subplot(grid[1, 1])
    figure.suptitle(title, fontsize=11, color="#444444")
    names = sorted(contenders, key=lambda name: contenders[name]["questions_per_second"])
    speeds = [contenders[name]["questions_per_second"] for name in names]
    bars = left.barh(names, speeds, color=[_color(name) for name in names], height=0.68)
    for bar, name in zip(bars, names, strict=True):
        row = contenders[name]
        label = f" {row['questions_per_second']:.0f}   {row['x_questions_per_second']:.1f} x"
        if "f1" in row:
            label += f"   F1 {row['f1']:.1f}"
        left.text(bar.get_width(), bar.get_y() + bar.get_height() / 2, label, va="center")
    left.set_xlim(0, 1.42 * max(speeds))
    left.set_title("A CSV: questions per second, end to end", loc="left", fontweight="bold")
    lowest, highest = [], []
    for name in reversed(names):
        row = contenders[name]
        medians = [row[f"latency_{length}_p50_ms"] for length in lengths]
        lowest.append(min(medians))
        highest.append(max(medians))
        right.plot(
            lengths,
            medians,
            marker="o",
            markersize=4,
            label=name,
            linewidth=2.6 if _color(name) == OURS else 1.2,
            linestyle="--" if CONTENDERS[name].precision == "FP32" else "-",
        )
    right.set_xticks(lengths)
    right.set_xlabel("tokens of question and context")
    right.set_ylabel("milliseconds, median")
    right.set_yscale("log")
    right.yaxis.set_major_formatter(ScalarFormatter())
    right.yaxis.set_minor_formatter(NullFormatter())
    right.set_yticks([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    right.set_ylim(0.8 * min(lowest), 1.2 * max(highest))
    right.grid(axis="y", which="both", color="#eeeeee")
    right.set_title("One question: latency", loc="left", fontweight="bold")
    right.set_ylim(top=4.5 * right.get_ylim()[1])  # room for the legend
    right.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    rows = [point["rows"] for point in growth]
    below.plot(rows, [point["peak_mb"] for point in growth], marker="o", color=OURS)
    below.set_ylim(0, 1.35 * max(point["peak_mb"] for point in growth))
    below.set_ylabel("peak memory, MB")
    for point in growth:
        below.annotate(
            f"{point['rows'] / point['seconds']:.0f} rows/s",
            (point["rows"], point["peak_mb"]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=8,
        )
    below.margins(x=0.12)
    below.set_xlabel("rows of a table with short contexts")
    below.set_title("A long CSV: memory and speed", loc="left", fontweight="bold")
    for axes in (left, right, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=130, format="png", metadata={"Software": None})
    plt.close(figure)


def _color(name: str) -> str:
    return OTHERS if CONTENDERS[name].peer else OURS
