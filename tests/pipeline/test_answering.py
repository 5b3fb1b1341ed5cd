"""A table answered by a model: killed and gone on with, refused, and the same however it is put."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_qa.answering import answer_one
from bert_qa.answering_tables import Asked, answer_tables
from bert_qa.errors import UserError
from bert_qa.params import Params, read_all_params
from bert_qa.squad import read_questions
from bert_qa.tables import table
from tests.conftest import ROOT

CHUNK_ROWS = 40
"""So that a small table has several chunks."""

CLOSE = 0.02
"""How far two scores of a row may lie apart when other rows share its batch: another shape is
computed in another order, and a score of the tiny model moves by some 1e-6. Rows of INT8 models
move by up to 0.016."""

Rows = list[list[str]]


def rows_of_sample(count: int) -> Rows:
    """Contexts and questions of the sample, no two rows equal."""
    examples = read_questions(ROOT / "data/sample/validation.json")
    return [
        [f"{number}. {example.context}", example.question]
        for number, example in enumerate((examples * (count // len(examples) + 1))[:count])
    ]


def write(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])


@dataclass(frozen=True)
class Place:
    """A folder with params.yaml, an input and a model, in which tables are answered."""

    folder: Path
    model: Path

    @property
    def output(self) -> Path:
        return self.folder / "output.csv"

    @property
    def counts(self) -> Path:
        return self.folder / "counts"

    def params(self, **infer: Any) -> Params:
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        content["infer"] |= {"input": "input.csv", "output": "output.csv", **infer}
        content["windows"] = {"max_length": 96, "doc_stride": 16, "max_question_length": 32}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return read_all_params(self.folder / "params.yaml")

    def answer(self, rows: Rows | None = None, **infer: Any) -> bytes:
        """Answer `rows`, or the input as it is, in this process."""
        if rows is not None:
            header = ["Context", "Question", *(f"Further {n}" for n in range(len(rows[0]) - 2))]
            write(self.folder / "input.csv", rows, header)
        params = self.params(**infer)
        with contextlib.chdir(self.folder):
            answer_tables(Asked(self.model, params.windows, params.decoding, params.infer))
        return self.output.read_bytes()

    def start(self, seconds_a_batch: float = 0.02) -> subprocess.Popen[str]:
        """Begin to answer the input as it is, in a process group of its own."""
        return subprocess.Popen(
            [
                sys.executable,
                ROOT / "tests/counted.py",
                self.model,
                self.counts,
                str(CHUNK_ROWS),
                str(seconds_a_batch),
            ],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def begun(self) -> int:
        """How many windows were begun, by all runs."""
        if not self.counts.exists():
            return 0
        return sum(map(int, self.counts.read_text(encoding="ascii").split()))

    def wait_for(self, windows: int, running: subprocess.Popen[str]) -> None:
        """Wait until so many windows were begun."""
        deadline = time.monotonic() + 60
        while self.begun() < windows:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)


def lines(error: str) -> list[str]:
    """What stands on standard error beside the lines of progress."""
    progress = re.compile(r"\S+: \d+ of \d+ rows \(\d+%\), ")
    return [line for line in re.split(r"[\r\n]+", error) if line and not progress.match(line)]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return rows_of_sample(150)


@pytest.fixture
def place(tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(table, "CHUNK_ROWS", CHUNK_ROWS)
    return Place(tmp_path, tiny_onnx)


@dataclass(frozen=True)
class Undisturbed:
    """A table, its answers, and how many windows were begun for them."""

    rows: Rows
    answered: bytes
    windows: int


@pytest.fixture(scope="module")
def undisturbed(
    rows: Rows, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    place = Place(tmp_path_factory.mktemp("undisturbed"), tiny_onnx)
    write(place.folder / "input.csv", rows, ["Context", "Question"])
    place.params()
    running = place.start(0)
    _, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    return Undisturbed(rows, place.output.read_bytes(), place.begun())


@pytest.fixture(scope="module")
def killed(tiny_onnx: Path, undisturbed: Undisturbed, tmp_path_factory: Any) -> Path:
    """The folder of the table of `undisturbed`, half of it done when its run was killed."""
    place = Place(tmp_path_factory.mktemp("killed"), tiny_onnx)
    write(place.folder / "input.csv", undisturbed.rows, ["Context", "Question"])
    place.params()
    running = place.start()
    place.wait_for(undisturbed.windows // 2, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    return place.folder


@pytest.mark.fault(
    "kill -9 at any point of a table",
    sees="`going on after row ...`; the output is the same, byte for byte",
)
def test_a_table_that_is_killed_again_and_again_is_that_of_an_undisturbed_run(
    place: Place, undisturbed: Undisturbed
) -> None:
    draw = random.Random(0)
    write(place.folder / "input.csv", undisturbed.rows, ["Context", "Question"])
    place.params()
    place.output.write_text("the former answers", encoding="utf-8")
    kills = sorted(draw.random() for _ in range(3))
    for kill in kills:
        running = place.start()
        place.wait_for(int(kill * undisturbed.windows), running)
        running.kill()  # its sessions end with it
        running.communicate()
        assert place.output.read_text(encoding="utf-8") == "the former answers"
    running = place.start(0)
    out, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    assert re.search(r"output.csv: going on after row [1-9]\d* of 150\n", out)
    assert place.output.read_bytes() == undisturbed.answered
    assert sorted(file.name for file in place.folder.iterdir()) == [
        ".cache",
        "counts",
        "input.csv",
        "output.csv",
        "params.yaml",
    ]
    # What a kill costs is the batches under way, one or so a session, and one that was done and
    # not yet in the journal.
    most = max(map(int, place.counts.read_text(encoding="ascii").split()))
    assert place.begun() <= undisturbed.windows + len(kills) * 3 * most


@pytest.mark.fault(
    "another {changed} when an unfinished table goes on",
    sees="it begins afresh, and says so, unless nothing is another",
)
@pytest.mark.parametrize("changed", ["input", "model", "parameter", "nothing"])
def test_a_changed_input_model_or_parameter_begins_afresh_and_says_so(
    place: Place,
    killed: Path,
    undisturbed: Undisturbed,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    changed: str,
) -> None:
    shutil.copytree(killed, place.folder, dirs_exist_ok=True)
    rows, model, infer = undisturbed.rows, place.model, dict[str, Any]()
    if changed == "input":
        rows = [*rows[:-1], [rows[-1][0], "Another question?"]]
    elif changed == "model":
        model = tmp_path_factory.mktemp("model") / "another"
        shutil.copytree(place.model, model)
        tokenizer = model / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    elif changed == "parameter":
        infer = {"on_error": "keep"}
    answered = Place(place.folder, model).answer(rows, **infer)
    says = capsys.readouterr().out
    afresh = "output.csv: what an unfinished run left is of another input, model, parameters"
    assert (afresh in says) is (changed != "nothing")
    assert ("going on after row" in says) is (changed == "nothing")
    if changed in {"nothing", "model"}:
        assert answered == undisturbed.answered
    else:
        fresh = Place(tmp_path_factory.mktemp("fresh"), model)
        assert answered == fresh.answer(rows, **infer)


@pytest.mark.fault("two runs on one table")
def test_two_at_once_ctrl_c_and_sigterm_are_one_line_each(
    place: Place, undisturbed: Undisturbed
) -> None:
    write(place.folder / "input.csv", undisturbed.rows, ["Context", "Question"])
    place.params()
    for share, number, status, word in (
        (0.2, signal.SIGTERM, 143, "terminated"),
        (0.6, signal.SIGINT, 130, "interrupted"),
    ):
        running = place.start()
        place.wait_for(int(share * undisturbed.windows), running)
        with pytest.raises(UserError, match=r"^output.csv: another run is writing it; wait for it"):
            place.answer()
        os.killpg(running.pid, number)
        _, error = running.communicate(timeout=60)
        assert (running.returncode, lines(error)) == (status, [word])
        assert not place.output.exists()
    assert place.answer() == undisturbed.answered


@pytest.mark.fault("an output that is the input, by another spelling: {spelling}")
@pytest.mark.parametrize("spelling", ["data/../input.csv", "absolute", "link", "hard link"])
def test_an_output_that_is_the_input_is_refused(place: Place, spelling: str) -> None:
    (place.folder / "data").mkdir()
    source = place.folder / "input.csv"
    output = spelling if "/" in spelling else "output.csv"
    write(source, [["Ada was here.", "Who?"]], ["Context", "Question"])
    if spelling == "absolute":
        output = str(source)
    elif spelling == "link":
        place.output.symlink_to("data/../input.csv")
    elif spelling == "hard link":
        os.link(source, place.output)
    before = source.read_bytes()
    with (
        contextlib.chdir(place.folder),
        pytest.raises(UserError, match=r"infer.output: found .*, which is infer.input; the"),
    ):
        place.params(output=output)
    assert source.read_bytes() == before


@pytest.fixture(scope="module")
def some(rows: Rows) -> Rows:
    """More than one chunk."""
    return rows[: CHUNK_ROWS * 2 + 10]


def found(place: Place, rows: Rows, **infer: Any) -> Rows:
    """The rows of the output for some rows, by one session, which starts faster than two."""
    answered = place.answer(rows, sessions=1, **infer)
    return list(csv.reader(answered.decode().splitlines(keepends=True), strict=True))[1:]


def assert_same(ours: Rows, theirs: Rows) -> None:
    """Context, question, answer, its place and further columns are equal, scores nearly so."""
    assert [row[:3] + row[4:] for row in ours] == [row[:3] + row[4:] for row in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert float(one[3]) == pytest.approx(float(two[3]), abs=CLOSE)


@pytest.fixture(scope="module")
def plain(some: Rows, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The answers to `some`, as they are."""
    place = Place(tmp_path_factory.mktemp("plain"), tiny_onnx)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "CHUNK_ROWS", CHUNK_ROWS)
        answers = found(place, some)
    for context, _, answer, score, start, end in answers:
        assert context[int(start) : int(end)] == answer
        assert 0 <= float(score) <= 1
    return answers


def test_rows_permuted_give_answers_permuted(place: Place, some: Rows, plain: Rows) -> None:
    order = random.Random(0).sample(range(len(some)), len(some))
    assert_same(found(place, [some[at] for at in order]), [plain[at] for at in order])


def test_two_tables_put_together_give_their_answers_put_together(
    place: Place, some: Rows, plain: Rows
) -> None:
    at = CHUNK_ROWS - 7
    assert_same(found(place, some[:at]) + found(place, some[at:]), plain)


def test_a_further_column_changes_no_byte_of_the_others(
    place: Place, some: Rows, plain: Rows
) -> None:
    answered = found(place, [[*row, f"note {n}"] for n, row in enumerate(some)])
    assert answered == [[*row, f"note {n}"] for n, row in enumerate(plain)]


def test_a_row_repeated_and_one_question_asked_give_the_same_answer(
    place: Place, some: Rows, plain: Rows
) -> None:
    """In a table of other rows, in one of nothing else, and without a table."""
    answered = found(place, [*some, some[3], some[3]])
    assert_same(answered, [*plain, plain[3], plain[3]])
    only = found(place, [some[3]] * 50)
    assert_same(only, [plain[3]] * 50)
    params = place.params()
    with contextlib.chdir(place.folder):
        one = answer_one(
            place.model,
            params.windows,
            params.decoding,
            params.infer,
            question=some[3][1],
            context=some[3][0],
        )
    assert [one.text, str(one.start), str(one.end)] == [plain[3][2], *plain[3][4:]]
    assert one.score == pytest.approx(float(plain[3][3]), abs=CLOSE)


def test_bad_rows_that_are_kept_leave_the_answers_of_the_others(
    place: Place, some: Rows, plain: Rows
) -> None:
    """They shift what is in a batch with what, and nothing else."""
    mixed = [*some[:5], ["", "Where?"], *some[5:60], ["A context.", " "], *some[60:]]
    answered = found(place, mixed, on_error="keep")
    reasons = [row.pop(6) for row in answered]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == {
        "": len(some),
        "Context is empty": 1,
        "Question is empty": 1,
    }
    assert_same([row for row, bad in zip(answered, reasons, strict=True) if not bad], plain)
