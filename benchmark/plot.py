"""The benchmark as a picture: throughput with F1, latency, and the growth of a long table.

Draws what `benchmark.measure.report` says and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # a file, never a window

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from benchmark.contenders import CONTENDERS

OURS, OTHERS = "#1b6ca8", "#9aa5b1"

Rows = Mapping[str, Mapping[str, float]]
"""By contender, the figures of `benchmark.measure.report`."""


def draw(
    contenders: Rows,
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
    _draw_throughput(left, names, contenders)
    _draw_latency(right, names[::-1], contenders, lengths)
    _draw_growth(below, growth)
    for axes in (left, right, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=130, format="png", metadata={"Software": None})
    plt.close(figure)


def draw_speed(contenders: Rows, title: str, path: Path) -> None:
    """Draw F1 against speed into a PNG, a point a contender.

    Args:
        contenders: by name, the figures of `report`, with `f1`.
        title, path: as in `draw`.
    """
    figure = plt.figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.add_subplot()
    speed = {name: row["questions_per_second"] for name, row in contenders.items()}
    for number, name in enumerate(sorted(contenders, key=speed.__getitem__, reverse=True)):
        axes.scatter(
            speed[name],
            contenders[name]["f1"],
            s=70 if CONTENDERS[name].peer else 130,
            marker="s" if CONTENDERS[name].precision == "FP32" else "o",
            color=f"C{number}",
            label=f"{name}: {speed[name]:.0f}",
        )
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    axes.set_xlabel("questions per second over a CSV, end to end (squares: FP32, circles: INT8)")
    axes.set_ylabel("F1")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Speed and F1: {title}", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)


def _draw_throughput(axes: Axes, names: Sequence[str], contenders: Rows) -> None:
    speeds = [contenders[name]["questions_per_second"] for name in names]
    bars = axes.barh(names, speeds, color=[_color(name) for name in names], height=0.68)
    for bar, name in zip(bars, names, strict=True):
        row = contenders[name]
        label = f" {row['questions_per_second']:.0f}   {row['x_questions_per_second']:.1f} x"
        if "f1" in row:
            label += f"   F1 {row['f1']:.1f}"
        axes.text(bar.get_width(), bar.get_y() + bar.get_height() / 2, label, va="center")
    axes.set_xlim(0, 1.42 * max(speeds))
    axes.set_title("A CSV: questions per second, end to end", loc="left", fontweight="bold")


def _draw_latency(
    axes: Axes, names: Sequence[str], contenders: Rows, lengths: Sequence[int]
) -> None:
    medians = {
        name: [contenders[name][f"latency_{length}_p50_ms"] for length in lengths] for name in names
    }
    for name in names:
        axes.plot(
            lengths,
            medians[name],
            marker="o",
            markersize=4,
            label=name,
            linewidth=2.6 if _color(name) == OURS else 1.2,
            linestyle="--" if CONTENDERS[name].precision == "FP32" else "-",
        )
    axes.set_xticks(lengths)
    axes.set_xlabel("tokens of question and context")
    axes.set_ylabel("milliseconds, median")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    highest = max(map(max, medians.values()))
    axes.set_ylim(0.8 * min(map(min, medians.values())), 5.4 * highest)  # room for the legend
    axes.grid(axis="y", which="both", color="#eeeeee")
    axes.set_title("One question: latency", loc="left", fontweight="bold")
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")


def _draw_growth(axes: Axes, growth: Sequence[Mapping[str, float]]) -> None:
    peaks = [point["peak_mb"] for point in growth]
    axes.plot([point["rows"] for point in growth], peaks, marker="o", color=OURS)
    axes.set_ylim(0, 1.35 * max(peaks))
    axes.set_ylabel("peak memory, MB")
    for point in growth:
        axes.annotate(
            f"{point['rows'] / point['seconds']:.0f} rows/s",
            (point["rows"], point["peak_mb"]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=8,
        )
    axes.margins(x=0.12)
    axes.set_xlabel("rows of a table with short contexts")
    axes.set_title("A long CSV: memory and speed", loc="left", fontweight="bold")


def _color(name: str) -> str:
    return OTHERS if CONTENDERS[name].peer else OURS
