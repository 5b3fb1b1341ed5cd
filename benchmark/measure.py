"""Measuring contenders against each other: one run, interleaved, on the same questions.

Every round asks all of them in turn, so that a slow minute of the machine slows all. Figures are
given as they are and as ratios to one named contender. Knows nothing of how answers are found.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from tabulate import tabulate

from benchmark.contenders import (
    CONTENDERS,
    PROJECT_INT8,
    REFERENCE,
    Setting,
    quantize_with_optimum_intel,
)
from benchmark.processes import Worker, in_peers, start_seconds
from benchmark.roofline import account, four_digits
from bert_qa.cpu import available_memory
from bert_qa.errors import UserError
from bert_qa.metrics import mean, score_text
from bert_qa.params import Benchmark, Language
from bert_qa.squad import Example
from bert_qa.windows import Tokenizer, WindowSet, load_tokenizer

CONTENDER_BYTES, CONTENDER_COPIES = 1_500_000_000, 6
"""Memory of a contender at the most: of its libraries, and of copies of the FP32 model."""

Item = TypeVar("Item")

GROWTH_WORDS = 12
"""Words of a context where tables grow."""


@dataclass
class Figures:
    """What was measured of one contender."""

    start_s: float
    table_s: list[float] = field(default_factory=list)
    """Seconds for the table in a process that has answered one row, one a round."""
    again_s: list[float] = field(default_factory=list)
    """Seconds for the same table, asked again: OpenVINO compiles for every new shape."""
    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    """By length in tokens, seconds for one question, one a repeat."""
    peak_mb: float = 0.0


def measure_all(
    examples: Sequence[Example],
    windows: WindowSet,
    setting: Setting,
    folder: Path,
    params: Benchmark,
    *,
    language: Language,
) -> dict[str, Any]:
    """Compare the contenders, and look closer at this project.

    Args:
        windows: to calibrate Optimum Intel's model with.
        folder: for tables, answers and that model.
        language: of the answers, as scores count them.

    Returns:
        `questions`, how many; `contenders`, see `compare`; `growth`, and `account`, as the
        functions of these names.
    """
    print("Optimum Intel quantizes its own INT8 model", flush=True)
    in_peers(quantize_with_optimum_intel, windows, setting)
    tokenizer = load_tokenizer(setting.qat)
    contenders = compare(examples, tokenizer, setting, folder, params, language=language)
    long = growth(examples, setting, folder, params.rows)
    seconds = len(examples) / contenders[PROJECT_INT8]["questions_per_second"]
    return {
        "questions": len(examples),
        "contenders": contenders,
        "growth": long,
        "account": account(setting, examples, seconds),
    }


def compare(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    setting: Setting,
    folder: Path,
    params: Benchmark,
    *,
    language: Language,
) -> dict[str, dict[str, float]]:
    """Measure every contender and score its answers.

    Args:
        folder: for the table and the answers.
        language: of the answers, as scores count them.

    Returns:
        The figures of `report` for each, with `exact_match` and `f1`.
    """
    questions = questions_of(params.lengths, examples, tokenizer)
    contenders = report(measure(examples, questions, setting, folder, params), len(examples))
    for at, name in enumerate(CONTENDERS):
        contenders[name] |= scores(examples, folder / f"{at}.csv", language)
    return contenders


def measure(
    examples: Sequence[Example],
    questions: Mapping[int, tuple[str, str]],
    setting: Setting,
    folder: Path,
    params: Benchmark,
) -> dict[str, Figures]:
    """Measure every contender: its start, the table, single questions.

    Args:
        examples: rows of the table that they answer.
        questions: by length in tokens, a question and a context of that length together.
        folder: for the table and the answers, one CSV a contender, named by its place in
            `CONTENDERS`.
    """
    table, first = folder / "questions.csv", folder / "first.csv"
    write_table(examples, table)
    write_table(examples[:1], first)
    figures = {}
    for name in CONTENDERS:
        seconds = start_seconds(name, setting, examples[0].question, examples[0].context)
        figures[name] = Figures(seconds)
        print(f"start: {name}: {seconds:.1f} s", flush=True)
    groups = _groups(setting)
    places = {name: place for place, name in enumerate(CONTENDERS)}
    for n in range(params.rounds):
        for names in _rotated(groups, n):
            with _workers(names, setting) as workers:
                for worker in workers.values():
                    worker.ask("answer_table", first, folder / "first-answered.csv")  # loads it
                for each in ("first", "second"):
                    for name in _rotated(names, n):
                        answers = folder / f"{places[name]}.csv"
                        seconds = workers[name].ask("answer_table", table, answers)
                        figure = figures[name]
                        (figure.table_s if each == "first" else figure.again_s).append(seconds)
                        figure.peak_mb = workers[name].peak_mb
                        print(f"round {n + 1}, {each} pass: {name}: {seconds:.1f} s", flush=True)
    for names in groups:
        with _workers(names, setting) as workers:
            for length, question in questions.items():
                print(f"one question of {length} tokens, {params.repeats} times", flush=True)
                for worker in workers.values():
                    worker.ask("answer", *question)  # the first of a length is slower for some
                for n in range(params.repeats):
                    for name in _rotated(names, n):
                        seconds = workers[name].ask("answer", *question)
                        figures[name].latencies_s.setdefault(length, []).append(seconds)
    return figures


def _groups(setting: Setting) -> list[list[str]]:
    """The contenders in groups that memory holds together; those of a group take turns."""
    size = sum(file.stat().st_size for file in setting.checkpoint.glob("*.safetensors"))
    most = max(1, available_memory() // (CONTENDER_BYTES + CONTENDER_COPIES * size))
    names = list(CONTENDERS)
    return [names[at : at + most] for at in range(0, len(names), most)]


@contextmanager
def _workers(names: Sequence[str], setting: Setting) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(Worker(name, setting)) for name in names}


def growth(
    examples: Sequence[Example], setting: Setting, folder: Path, rows: Sequence[int]
) -> list[dict[str, float]]:
    """Time and memory of this project over longer and longer tables.

    The rows are the examples over and over, their contexts cut to `GROWTH_WORDS` words so that a
    long table is done in minutes; whatever grows with the number of rows does so for any context.

    Args:
        folder: for the tables and their answers.
        rows: rows of each table, the shorter first.

    Returns:
        For each table `rows`, `seconds` and `peak_mb`, the most memory until its end.
    """
    measured = []
    with Worker(PROJECT_INT8, setting) as worker:
        for count in rows:
            some = [examples[i % len(examples)] for i in range(count)]
            short = [" ".join(example.context.split()[:GROWTH_WORDS]) for example in some]
            pd.DataFrame({"Context": short, "Question": [e.question for e in some]}).to_csv(
                folder / "long.csv", index=False
            )
            seconds = worker.ask("answer_table", folder / "long.csv", folder / "answered.csv")
            print(f"{count} rows: {seconds:.1f} s, {worker.peak_mb:.0f} MB", flush=True)
            measured.append(
                {
                    "rows": count,
                    "seconds": four_digits(seconds),
                    "peak_mb": four_digits(worker.peak_mb),
                }
            )
    return measured


def _rotated(items: Sequence[Item], n: int) -> list[Item]:
    """The items from the n-th on: none always follows the same neighbour."""
    at = n % len(items)
    return [*items[at:], *items[:at]]


def report(figures: Mapping[str, Figures], rows: int) -> dict[str, dict[str, float]]:
    """The figures of each contender, and their ratios to the figures of `REFERENCE`.

    Args:
        rows: rows of the table.

    Returns:
        By contender: questions per second of the median round, and of the second pass over the same
        table, start in seconds, peak memory in MB, and for each length the median and the 99th
        percentile of the latency in milliseconds. `x_` before a name is the ratio; more is better
        for questions per second alone.
    """
    absolute: dict[str, dict[str, float]] = {}
    for name, figure in figures.items():
        absolute[name] = {
            "questions_per_second": rows / float(np.median(figure.table_s)),
            "again_per_second": rows / float(np.median(figure.again_s)),
            "start_s": figure.start_s,
            "peak_mb": figure.peak_mb,
        }
        for length, seconds in figure.latencies_s.items():
            for percentile in (50, 99):
                value = 1000 * float(np.percentile(seconds, percentile))
                absolute[name][f"latency_{length}_p{percentile}_ms"] = value
    return {
        name: {
            **{key: four_digits(value) for key, value in row.items()},
            **{f"x_{key}": four_digits(row[key] / absolute[REFERENCE][key]) for key in row},
        }
        for name, row in absolute.items()
    }


def write_table(examples: Sequence[Example], path: Path) -> None:
    """Write examples as a CSV to answer."""
    rows = {"Context": [e.context for e in examples], "Question": [e.question for e in examples]}
    pd.DataFrame(rows).to_csv(path, index=False)


def scores(
    examples: Sequence[Example], output: Path, language: Language = "en"
) -> dict[str, float]:
    """Exact match and F1 of an answered table, percent."""
    texts = pd.read_csv(output, dtype=str, na_filter=False)["Answer"]
    score = mean(
        [
            score_text(text, [gold.text for gold in example.answers], language)
            for text, example in zip(texts, examples, strict=True)
        ]
    )
    return {"exact_match": round(score.exact_match, 4), "f1": round(score.f1, 4)}


def summary(contenders: Mapping[str, Mapping[str, float]]) -> str:
    """The throughput of each contender as a small table for a terminal."""
    columns = {
        "questions_per_second": ("questions/s", ".1f"),
        "x_questions_per_second": ("times", ".2f"),
        "again_per_second": ("again/s", ".1f"),
        "f1": ("F1", ".2f"),
    }
    rows = [(name, *(row[key] for key in columns)) for name, row in contenders.items()]
    headers = ["", *(header for header, _ in columns.values())]
    table: str = tabulate(rows, headers, floatfmt=("", *(form for _, form in columns.values())))
    return table


def questions_of(
    lengths: Sequence[int], examples: Sequence[Example], tokenizer: Tokenizer
) -> dict[int, tuple[str, str]]:
    """A question and a context of each length in tokens, special ones included, cut from examples.

    Raises:
        UserError: a length is less than the question's, or more than all contexts together have.
    """
    question = examples[0].question
    words = " ".join(dict.fromkeys(example.context for example in examples)).split()
    tokenizer.backend.no_truncation()
    questions = {}
    for length in lengths:
        # The most words that fit, then full stops, a token each.
        fitting = bisect.bisect_right(
            range(len(words) + 1),
            length,
            key=lambda n: len(tokenizer.backend.encode(question, " ".join(words[:n]))),
        )
        context = " ".join(words[: fitting - 1])
        stops = length - len(tokenizer.backend.encode(question, context))
        if fitting > len(words) or not 0 <= stops < length:
            raise UserError(
                f"params.yaml: benchmark.lengths: {length} tokens are less than a question or more"
                " than the validation set"
            )
        questions[length] = (question, context + " ." * stops)
    return questions
