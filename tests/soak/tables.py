"""Tables by stages/infer.py: killed and gone on with, bad tables, damaged models and journals."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bert_qa.cpu import has_bf16
from bert_qa.squad import read_questions
from tests.soak.damage import scramble, shift_clock, truncate
from tests.soak.running import Ended, Runner, UndisturbedError, disturb, wait_for_moment

UNFINISHED = ".output.csv.partial"
SIGNS = [UNFINISHED, f"{UNFINISHED}/output.csv", f"{UNFINISHED}/journal.sqlite-wal"]
FORMER = "the former answers"
MOST_KILLS = 6
DRAWN = 6
"""How many sets of parameters are drawn: each needs an undisturbed run."""

SETTINGS: dict[str, dict[str, list[Any]]] = {
    "infer": {
        "provider": ["OpenVINOExecutionProvider", "CPUExecutionProvider"],
        "precision": ["fp32", "bf16"],
        "on_error": ["fail", "keep"],
        "escape_formulas": [False, True],
        "sessions": ["auto", 1],
        "max_context_characters": [2_000_000, 200_000],
    },
    "windows": {"max_length": [384, 128, 96], "doc_stride": [128, 16], "max_question_length": [32]},
    "decoding": {"max_answer_length": [30, 1], "version_2_with_negative": [False, True]},
}
"""Parameters to draw from. Not all go together."""


def allowed(params: dict[str, dict[str, Any]]) -> bool:
    """Whether drawn parameters go together."""
    windows, infer = params["windows"], params["infer"]
    fits = windows["max_length"] - windows["max_question_length"] - 3 > windows["doc_stride"]
    bf16 = infer["precision"] == "bf16"
    return fits and not (bf16 and (infer["provider"].startswith("CPU") or not has_bf16()))


def write_table(path: Path, source: Path, rows: int, characters: int | None = None) -> None:
    """Write contexts and questions of SQuAD JSON, again and again; no two rows are equal.

    Args:
        characters: of a context, at the most.
    """
    examples = read_questions(source)
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["Context", "Question", "Note"])
        for number in range(rows):
            example = examples[number % len(examples)]
            writer.writerow(
                [f"{number}. {example.context[:characters]}", example.question, f"={number}"]
            )


@dataclass
class Tables:
    """A folder in which tables are answered by one model.

    Attributes:
        project: a copy of the project, for its stages and sample.
        model: an exported model.
        undisturbed: answers and seconds of runs that nobody disturbed, by parameters and table.
    """

    folder: Path
    project: Path
    model: Path
    runner: Runner
    undisturbed: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw, self.report = self.runner.draw, self.runner.report
        sample = self.project / "data/sample/validation.json"
        self.folder.mkdir()
        self.tables = []
        for rows, characters in ((40, None), (250, None), (2200, 150)):  # the last has two chunks
            path = self.folder / f"{rows}.csv"
            write_table(path, sample, rows, characters)
            self.tables.append(path)
        self.settings: list[dict[str, dict[str, Any]]] = []
        while len(self.settings) < DRAWN:
            drawn = {
                section: {key: self.draw.choice(values) for key, values in keys.items()}
                for section, keys in SETTINGS.items()
            }
            if allowed(drawn):
                self.settings.append(drawn)

    def killed(self) -> None:
        """A table that is killed, damaged and gone on with ends as an undisturbed one."""
        table = self.draw.choice(self.tables)
        params = self._params()
        expected, seconds = self._undisturbed(table, params)
        place = self._place(table, params)
        (place / "output.csv").write_text(FORMER, encoding="utf-8")
        for _ in range(self.draw.randint(1, MOST_KILLS)):
            running = self.runner.start(self._command(), place, strange=True)
            wait_for_moment(running, self.draw, seconds, place, SIGNS)
            if self.draw.random() < 0.15:
                self._second(place)
            if running.process.poll() is not None:
                break
            how = disturb(running, self.draw)
            ended = running.wait()
            running.wait_for_orphans()
            kind = f"a table: {how}"
            outcome = self.runner.judge(kind, ended, killed=True)
            self.report.count(kind, outcome)
            self._check_kept(kind, place, expected, ended)
            if ended.status == 0:
                break
            self._damage(place)
        ended = self.runner.run(self._command(), place)
        if self.runner.judge("a table gone on with", ended) != "went through":
            self.report.fault("lost", "a table gone on with", str(ended))
        elif (place / "output.csv").read_bytes() != expected:
            self._keep(place, "a table gone on with", ended)
        self.report.count("a table gone on with", "went through")
        shutil.rmtree(place)

    def bad_tables(self) -> None:
        """A table that somebody spoilt is answered or refused in one line."""
        place = self._place(self.tables[0], self._params())
        sample = self.project / "data/sample/validation.json"
        write_table(place / "input.csv", sample, self.draw.choice([1, 10]))
        good = (place / "input.csv").read_bytes()
        for _ in range(4):
            (place / "output.csv").write_text(FORMER, encoding="utf-8")
            (place / "input.csv").write_bytes(scramble(good, self.draw))
            self._try(place, "a spoilt table")
        shutil.rmtree(place)

    def bad_places(self) -> None:
        """Inputs and outputs that are no files, or not ours to replace."""
        names = {
            "input": ["none.csv", ".", "/dev/stdin", "pipe", "in\0put", "", "x" * 300, "..", "~"],
            "output": [
                "input.csv",
                "./input.csv",
                "link.csv",
                "/dev/null",
                "/dev/full",
                "/proc/output.csv",
                "/sys/output.csv",
                "pipe",
                "folder",
                "x" * 250,
                "params.yaml",
                "input.csv/output.csv",
                ".git/output.csv",
            ],
        }
        key = self.draw.choice(list(names))
        name = self.draw.choice(names[key])
        place = self._place(self.tables[0], self._params())
        os.mkfifo(place / "pipe")
        (place / "folder").mkdir()
        (place / "link.csv").symlink_to("input.csv")
        content = yaml.safe_load((place / "params.yaml").read_text(encoding="utf-8"))
        content["infer"][key] = name
        (place / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        (place / "output.csv").write_text(FORMER, encoding="utf-8")
        before = (place / "input.csv").read_bytes()
        self._try(place, f"infer.{key} that is no table's")
        if (place / "input.csv").read_bytes() != before:
            self.report.fault("lost", f"infer.{key}", f"{name}: the input was replaced")
        shutil.rmtree(place)

    def bad_models(self) -> None:
        """A model with a file cut off is refused in one line."""
        place = self._place(self.tables[0], self._params())
        (place / "output.csv").write_text(FORMER, encoding="utf-8")
        model = place / "model"
        shutil.copytree(self.model, model)
        file = self.draw.choice(sorted(model.iterdir()))
        if self.draw.random() < 0.5:
            truncate(file, self.draw)
        elif file.suffix == ".json":
            file.write_bytes(scramble(file.read_bytes(), self.draw))
        else:
            file.unlink()
        self._try(place, f"a damaged {file.name}", model)
        shutil.rmtree(place)

    def _params(self) -> dict[str, dict[str, Any]]:
        return self.draw.choice(self.settings)

    def _place(self, table: Path, params: dict[str, dict[str, Any]]) -> Path:
        place = self.folder / "place"
        if place.exists():
            shutil.rmtree(place)
        place.mkdir()
        shutil.copyfile(table, place / "input.csv")
        content = yaml.safe_load((self.project / "params.yaml").read_text(encoding="utf-8"))
        for section, values in params.items():
            content[section] |= values
        content["infer"] |= {"input": "input.csv", "output": "output.csv"}
        (place / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return place

    def _command(self, model: Path | None = None) -> Sequence[str | Path]:
        return ["python", self.project / "stages/infer.py", "--model", model or self.model]

    def _undisturbed(self, table: Path, params: dict[str, dict[str, Any]]) -> tuple[bytes, float]:
        key = json.dumps([table.name, params])
        if key not in self.undisturbed:
            place = self._place(table, params)
            begun = time.monotonic()
            ended = self.runner.run(self._command(), place)
            if ended.status != 0:
                raise UndisturbedError(str(ended))
            answered = (place / "output.csv").read_bytes()
            self.undisturbed[key] = answered, time.monotonic() - begun
        return self.undisturbed[key]

    def _second(self, place: Path) -> None:
        """Another run on the same output."""
        ended = self.runner.run(self._command(), place)
        self.report.count("two runs on a table", self.runner.judge("two runs on a table", ended))

    def _damage(self, place: Path) -> None:
        """Cut off a random file of what a killed run left, or set the clock."""
        files = [
            file
            for pattern in (f"{UNFINISHED}/*", ".cache/openvino/*.blob")
            for file in place.glob(pattern)
        ]
        if not files or self.draw.random() < 0.5:
            return
        file = self.draw.choice(sorted(files))
        if self.draw.random() < 0.3:
            shift_clock(files, self.draw)
            self.report.count("the clock set", "files of a table")
            return
        truncate(file, self.draw)
        kind = "a compiled model" if file.suffix == ".blob" else file.name
        self.report.count("a file cut off", kind)

    def _check_kept(self, kind: str, place: Path, expected: bytes, ended: Ended) -> None:
        """The output is the former one, or the one that the run was to write."""
        output = place / "output.csv"
        if not output.is_file():
            self.report.fault("lost", kind, f"no output.csv\n{ended}")
        elif output.read_bytes() not in (expected, FORMER.encode()):
            self._keep(place, kind, ended)

    def _keep(self, place: Path, kind: str, ended: Ended) -> None:
        """Note answers that differ, and keep them to be looked at."""
        kept = self.folder / f"differs-{len(self.report.faults)}"
        shutil.copytree(place, kept, symlinks=True)
        self.report.fault("differs", kind, f"{kept}\n{ended}")

    def _try(self, place: Path, kind: str, model: Path | None = None) -> None:
        """Run once; a refusal leaves the former output, and answers lie in their contexts."""
        ended = self.runner.run(self._command(model), place, strange=True)
        outcome = self.runner.judge(kind, ended)
        self.report.count(kind, outcome)
        output = place / "output.csv"
        if outcome == "went through" and output.read_bytes() != FORMER.encode():
            with output.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines, strict=True):
                    if not _answered(row):
                        self.report.fault("differs", kind, f"{row}\n{ended}")
        elif outcome != "went through" and output.read_text(encoding="utf-8") != FORMER:
            self.report.fault("lost", kind, str(ended))


def _answered(row: dict[str, str]) -> bool:
    """Whether an answer is its context at Start:End, both with or without a `'` before them."""
    contexts, answers = ({row[name], row[name].removeprefix("'")} for name in ("Context", "Answer"))
    start, end = int(row["Start"]), int(row["End"])
    return any(context[start:end] in answers for context in contexts)
