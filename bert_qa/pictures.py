"""The plots of a run as PNGs, small enough for git: what README and docs show.

Draws the tables of `bert_qa.plots` and the losses that DVCLive wrote, and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {
    "FP32": "#8da0cb",
    "INT8, PTQ": "#fdbb84",
    "INT8, QAT": "#e34a33",
    "INT8, no QAT": "#7b3294",
}
"""Of the models by their labels, as in the templates of .dvc/plots/."""

COLUMNS = ("model", "percent", "low", "high")
"""Of the table of scores, for each measure."""

WIDTH, HEIGHT = 7.0, 3.4
"""Inches of a picture."""

DPI = 110


def draw_all(
    tables: Mapping[str, pd.DataFrame], losses: Mapping[str, pd.DataFrame], out: Path
) -> None:
    """Draw each table and the losses into a folder.

    Args:
        tables: what `bert_qa.plots.plot_tables` gives.
        losses: by stage, columns `step` and `loss`; empty for a stage that trained nothing.
        out: the folder; `<name>.png` for each table, and `loss.png`.
    """
    drawn: dict[str, tuple[str, Callable[[Axes], None]]] = {
        "scores": ("Scores, with 95% intervals", partial(_scores, tables["scores"])),
        "f1_by_question": ("F1 by question word", partial(_bars, tables["f1_by_question"])),
        "f1_by_answer_length": (
            "F1 by words of the answer",
            partial(_bars, tables["f1_by_answer_length"]),
        ),
        "f1_by_context_length": (
            "F1 by words of the context",
            partial(_bars, tables["f1_by_context_length"]),
        ),
        "divergence": ("How far INT8 is from FP32", partial(_divergence, tables["divergence"])),
        "confidence": (
            "Confidence against correctness",
            partial(_confidence, tables["confidence"]),
        ),
        "loss": ("Loss", partial(_losses, losses)),
    }
    for name, (title, draw) in drawn.items():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        # Without the version of matplotlib, which pyproject pins and no picture needs to name.
        figure.savefig(out / f"{name}.png", dpi=DPI, format="png", metadata={"Software": None})


def _scores(table: pd.DataFrame, axes: Axes) -> None:
    places: list[int] = []
    names = []
    for number, (measure, models) in enumerate(table.groupby("measure", sort=False)):
        for model, *figures in zip(*(models[name] for name in COLUMNS), strict=True):
            percent, low, high = map(float, figures)
            place = len(places) + number  # a row stays free between two measures
            ends = [[percent - low], [high - percent]]
            axes.errorbar(percent, place, xerr=ends, fmt="o", color=COLORS[model], capsize=4)
            axes.annotate(f"{percent:.2f}", (high, place), (8, -4), textcoords="offset points")
            places.append(place)
            names.append(f"{measure}, {model}")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("percent")
    axes.grid(axis="x", color="#dddddd")


def _bars(table: pd.DataFrame, axes: Axes) -> None:
    group = table.columns[0]
    groups, count = list(table[group].unique()), table["model"].nunique()
    counts = table.drop_duplicates(group).set_index(group)["questions"]
    width = 0.8 / count
    for number, (model, some) in enumerate(table.groupby("model", sort=False)):
        aside = (number - (count - 1) / 2) * width
        places = [groups.index(name) + aside for name in some[group]]
        axes.bar(places, some["f1"], width, color=COLORS[str(model)], label=model)
    axes.set_xticks(range(len(groups)), [f"{name}\n{counts[name]}" for name in groups], fontsize=8)
    axes.set_xlabel(f"{group}, and how many questions", fontsize=9)
    axes.set_ylabel("F1, percent")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", color="#dddddd")
    axes.legend(fontsize=8, ncols=count, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))


def _divergence(table: pd.DataFrame, axes: Axes) -> None:
    for model, some in table.groupby("model", sort=False):
        axes.plot(some["divergence"], some["windows"], color=COLORS[str(model)], label=model)
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    axes.set_xlabel("divergence of start and end from FP32's, nats")
    axes.set_ylabel("windows at most that far, percent")
    axes.grid(color="#dddddd")
    axes.legend(fontsize=8, frameon=False)


def _confidence(table: pd.DataFrame, axes: Axes) -> None:
    axes.plot(
        [0, 100], [0, 100], color="#bbbbbb", linestyle="--", label="score = share that is right"
    )
    for model, some in table.groupby("model", sort=False):
        color = COLORS[str(model)]
        axes.plot(some["score"], some["exact_match"], "o-", color=color, label=model, markersize=4)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("score of the answer, percent (ten groups)")
    axes.set_ylabel("exact match, percent")
    axes.grid(color="#dddddd")
    axes.legend(fontsize=8, frameon=False)


def _losses(losses: Mapping[str, pd.DataFrame], axes: Axes) -> None:
    trained = {stage: some for stage, some in losses.items() if len(some)}
    for stage, some in trained.items():
        axes.plot(some["step"], some["loss"], "o-", label=stage, markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(color="#dddddd")
    if trained:
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing was trained", transform=axes.transAxes, ha="center")
