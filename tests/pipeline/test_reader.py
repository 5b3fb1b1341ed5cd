"""`Reader` and the command `bert-qa`: released models outside the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.processes import in_peers
from bert_qa import Reader
from bert_qa.errors import UserError
from bert_qa.params import Decoding, Windows
from bert_qa.released_parameters import PARAMETERS_FILE, Released, write_released
from bert_qa.squad import Example, read_questions
from bert_qa.windows import load_tokenizer
from tests.conftest import ROOT, Project
from tests.peers import pipeline_answers

PIPELINE = Released(  # the pipeline's defaults
    windows=Windows(max_length=384, doc_stride=128, max_question_length=64),
    decoding=Decoding(
        max_answer_length=15, version_2_with_negative=False, null_score_diff_threshold=0.0
    ),
)
BF16 = ("--precision", "bf16")
ONE_WINDOW = 320
"""Tokens."""

QUESTION, CONTEXT = "Where do I live?", "My name is Sarah and I live in London."


@pytest.fixture(scope="module")
def fp32(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32 model as it would be released: its logits do not depend on a batch's shape."""
    folder = tmp_path_factory.mktemp("fp32") / "model"
    shutil.copytree(reproduced.folder / "models/onnx/fp32", folder)
    write_released(folder, PIPELINE)
    return folder


@pytest.fixture(scope="module")
def examples(fp32: Path) -> list[Example]:
    """50 that are one window each."""
    tokenizer = load_tokenizer(fp32)
    tokenizer.backend.no_truncation()
    short = [
        example
        for example in read_questions(ROOT / "data/sample/validation.json")
        if len(tokenizer.backend.encode(example.question, example.context)) <= ONE_WINDOW
    ]
    return short[:50]


@pytest.fixture
def released(tmp_path: Path, tiny_onnx: Path) -> Path:
    """A tiny model of random weights, released."""
    folder = tmp_path / "released"
    shutil.copytree(tiny_onnx, folder)
    windows = Windows(max_length=96, doc_stride=16, max_question_length=32)
    write_released(folder, Released(windows=windows, decoding=PIPELINE.decoding))
    return folder


ONE_WINDOW_EACH: list[dict[str, Any]] = [
    {},
    {"max_answer_len": 5},
    {"handle_impossible_answer": True},
    {"align_to_words": False},
    {"max_seq_len": 320, "doc_stride": 64},
]
SEVERAL_ANSWERS: list[dict[str, Any]] = [
    {"top_k": 3, "align_to_words": True},
    {"top_k": 3, "align_to_words": False},
]
SEVERAL_WINDOWS: dict[str, Any] = {"max_seq_len": 128, "doc_stride": 32}

Pairs = dict[str, list[tuple[Any, Any]]]


@pytest.fixture(scope="module")
def pairs(fp32: Path, examples: list[Example]) -> Pairs:
    """By arguments, what `Reader` and transformers' pipeline answer, one pair a question."""
    options = [*ONE_WINDOW_EACH, *SEVERAL_ANSWERS, SEVERAL_WINDOWS]
    questions, contexts = [e.question for e in examples], [e.context for e in examples]
    asked = list(zip(questions, contexts, strict=True))
    theirs = in_peers(pipeline_answers, fp32, asked, *options)
    reader = Reader(fp32)
    return {
        str(some): list(zip(reader(questions, contexts, **some), answers, strict=True))
        for some, answers in zip(options, theirs, strict=True)
    }


@pytest.mark.parametrize("arguments", ONE_WINDOW_EACH, ids=str)
def test_answers_are_the_pipeline_s(pairs: Pairs, arguments: dict[str, Any]) -> None:
    """On 50 questions, in one window each."""
    found = pairs[str(arguments)]
    assert len(found) == 50
    for ours, theirs in found:
        assert ours.keys() == theirs.keys()
        assert (ours["answer"], ours["start"], ours["end"]) == (
            theirs["answer"],
            theirs["start"],
            theirs["end"],
        )
        if arguments == {"align_to_words": False}:
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
        else:  # it adds up what aligns to the same words; ours is the best of these
            assert theirs["score"] / 13 <= ours["score"] <= theirs["score"] + 1e-4
    # Of most questions there is nothing to add.
    equal = [abs(ours["score"] - theirs["score"]) < 1e-4 for ours, theirs in found]
    assert sum(equal) >= 25


@pytest.mark.parametrize("arguments", SEVERAL_ANSWERS, ids=str)
def test_several_answers_are_the_pipeline_s(pairs: Pairs, arguments: dict[str, Any]) -> None:
    """Where they align to words, the pipeline's order is of sums: the best is compared alone."""
    for ours, theirs in pairs[str(arguments)]:
        assert len(ours) == len(theirs) == 3
        assert ours[0]["answer"] == theirs[0]["answer"]
        texts = [answer["answer"] for answer in ours]
        # Equal texts in two places are one answer of the pipeline and two of ours.
        if not arguments["align_to_words"] and len(set(texts)) == 3:
            assert texts == [answer["answer"] for answer in theirs]


def test_an_answer_may_be_none(fp32: Path) -> None:
    reader, nobody = Reader(fp32), "Which planet has the most moons?"
    found = reader(question=nobody, context=CONTEXT, handle_impossible_answer=True, top_k=50)
    assert {"answer": "", "start": 0, "end": 0}.items() <= max(
        found, key=lambda each: each["answer"] == ""
    ).items()
    never = reader(question=nobody, context=CONTEXT, handle_impossible_answer=False, top_k=50)
    assert "" not in {each["answer"] for each in never}


def test_windows_are_of_the_lengths_that_are_asked_for(
    fp32: Path, examples: list[Example], pairs: Pairs, tmp_path: Path
) -> None:
    """Several a context: as of a model that was released with them."""
    small = tmp_path / "small"
    shutil.copytree(fp32, small)
    windows = Windows(max_length=128, doc_stride=32, max_question_length=64)
    write_released(small, Released(windows=windows, decoding=PIPELINE.decoding))
    found = pairs[str(SEVERAL_WINDOWS)]
    questions, contexts = [e.question for e in examples], [e.context for e in examples]
    ours = [ours for ours, _ in found]
    assert ours == Reader(small)(question=questions, context=contexts)
    assert ours != [ours for ours, _ in pairs[str({})]]
    # The pipeline ranks probabilities of each window alone: most answers are the same.
    assert sum(mine["answer"] == theirs["answer"] for mine, theirs in found) >= 30
    # And a stride that is not given suits the window.
    assert Reader(fp32)(question=questions[0], context=contexts[0], max_seq_len=128)["score"] > 0


def test_long_questions_are_cut(fp32: Path, examples: list[Example]) -> None:
    """The pipeline ignores `max_question_len`: it is given questions that are cut already."""
    tokenizer, reader = load_tokenizer(fp32), Reader(fp32)
    tokenizer.backend.no_truncation()
    for example in examples[:20]:
        encoding = tokenizer.backend.encode(example.question, add_special_tokens=False)
        end = encoding.offsets[min(8, len(encoding)) - 1][1]
        cut = reader(question=example.question[:end], context=example.context)
        assert reader(example.question, example.context, max_question_len=8) == cut


def test_one_text_serves_many_questions(released: Path) -> None:
    reader = Reader(released)
    questions = [QUESTION, "Who am I?"]
    together = reader(question=questions, context=CONTEXT)
    assert together == reader(question=questions, context=[CONTEXT, CONTEXT])
    for question, found in zip(questions, together, strict=True):
        alone = reader(question=question, context=CONTEXT)
        assert (alone["answer"], alone["start"]) == (found["answer"], found["start"])
        assert CONTEXT[alone["start"] : alone["end"]] == alone["answer"]
    (several,) = reader(question=[QUESTION], context=[CONTEXT], top_k=4)
    assert several[0]["answer"] == together[0]["answer"]
    scores = [found["score"] for found in several]
    assert scores == sorted(scores, reverse=True)
    assert len({(found["start"], found["end"]) for found in several}) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"question": " ", "context": CONTEXT}, "question 0: empty"),
        ({"question": [QUESTION, QUESTION], "context": [CONTEXT, ""]}, "context 1: empty"),
        ({"question": [QUESTION], "context": []}, "context: found 0 for 1 questions"),
        ({"question": QUESTION, "context": [CONTEXT]}, "context: found a sequence"),
        ({"question": QUESTION, "context": CONTEXT, "top_k": 0}, "top_k: found 0"),
        ({"question": QUESTION, "context": CONTEXT, "max_seq_len": 2}, "max_seq_len: found 2"),
        ({"question": QUESTION, "context": CONTEXT, "doc_stride": "a"}, "doc_stride: found 'a'"),
        ({"question": QUESTION, "context": CONTEXT, "top_k": "3"}, "top_k: found '3'"),
        ({"question": [QUESTION], "context": [None]}, "context 0: found None"),
        ({"question": "\ud800", "context": CONTEXT}, "question 0: no Unicode text at character 0"),
        (
            {"question": QUESTION, "context": CONTEXT, "max_seq_len": 9000},
            "^max_seq_len: found 9000",
        ),
        ({"question": QUESTION, "context": CONTEXT, "max_seq_len": 20}, "^max_seq_len 20 leaves"),
    ],
)
def test_a_wrong_argument_is_named(released: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Reader(released)(**arguments)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "not a released model, it has no model.onnx"),
        (lambda folder: (folder / PARAMETERS_FILE).unlink(), f"it has no {PARAMETERS_FILE}, which"),
        (lambda folder: (folder / "model.onnx").unlink(), "it has no model.onnx"),
        (lambda folder: (folder / PARAMETERS_FILE).write_text("{"), "content: Invalid JSON"),
        (lambda folder: (folder / PARAMETERS_FILE).write_text("{}"), "windows: Field required"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "no usable tokenizer"),
    ],
)
def test_a_folder_that_is_no_release_is_named(released: Path, spoil: Any, says: str) -> None:
    spoil(released)
    with pytest.raises(UserError, match=re.escape(says)):
        Reader(released)


def bert_qa(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("bert-qa"), *arguments]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, **options)


def test_the_command_answers_as_the_pipeline_s_stage(reproduced: Project, tmp_path: Path) -> None:
    model, table = (reproduced.folder / path for path in ("models/bert-qa-int8", "data/input.csv"))
    done = bert_qa("answer", table, "-o", "answers.csv", "--model", model, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = (reproduced.folder / "data/output.csv").read_bytes()
    assert (tmp_path / "answers.csv").read_bytes() == wanted
    row = pd.read_csv(reproduced.folder / "data/output.csv", na_filter=False).iloc[0]
    asked = ("--question", row["Question"], "--context", row["Context"], "--model", model)
    assert bert_qa("ask", *asked, cwd=tmp_path).stdout == f"{row['Answer']}\n"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["answer", "in.csv", "-o", "out.csv", "--model", "none"], 1, "none: not a released model"),
        (["answer", "no.csv", "-o", "out.csv"], 1, "no.csv: no such file; check INPUT"),
        (["answer", "in.csv", "-o", "in.csv"], 1, "--output: in.csv is the input"),
        (["answer", "in.csv", "-o", ""], 1, "output: empty"),
        (["answer", "bad.csv", "-o", "out.csv"], 1, "or set --on-error keep"),
        (["answer", "in.csv", "-o", "out.csv", "--sessions", "9999"], 1, "--sessions: found 9999"),
        (["answer", "in.csv", "-o", "out.csv", "--sessions", "0"], 2, "positive number or auto"),
        (["answer", "in.csv", "-o", "out.csv", "--sessions", "3000000000"], 2, "positive number"),
        (
            ["answer", "infer.csv", "-o", "out.csv"],
            1,
            "error: infer.csv: no such file; check INPUT",
        ),
        (
            [
                *["ask", "--question", "a", "--context", "a", "--provider", "CPUExecutionProvider"],
                *BF16,
            ],
            1,
            "--precision: found bf16; CPUExecutionProvider",
        ),
        (["answer", "in.csv", "-o", "out.csv", "--max-context-characters", "5"], 1, "than --max-"),
        (["answer", "in.csv", "-o", "folder"], 1, "folder: a folder, where"),
        (["ask", "--question", " ", "--context", "a"], 1, "--question: empty"),
        (["ask", "--question", "a"], 2, "--context"),
        (["answer"], 2, "required"),
    ],
)
def test_a_mistake_is_one_line(
    released: Path, tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "in.csv").write_text(f"Context,Question\n{CONTEXT},{QUESTION}\n", encoding="utf-8")
    (tmp_path / "bad.csv").write_text(f"Context,Question\n,{QUESTION}\n", encoding="utf-8")
    if "--model" not in arguments and len(arguments) > 1:
        arguments = [*arguments, "--model", str(released)]
    done = bert_qa(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert says in done.stderr
    if status == 1:
        assert re.fullmatch(r"error: .*\n", done.stderr)
        assert "params.yaml" not in done.stderr
        assert not re.search(r"infer\.(?!csv)", done.stderr)


def test_a_formula_is_told_of_by_the_option(released: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"Context,Question\n=1+1 is two,{QUESTION}\n")
    asked = ("answer", "in.csv", "-o", "out.csv", "--model", released)
    done = bert_qa(*asked, cwd=tmp_path)
    assert "turn escape_formulas on before you open it" in done.stdout
    assert "cells" not in bert_qa(*asked, "--escape-formulas", cwd=tmp_path).stdout


BLOCKED = """
import importlib.abc, json, os, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name)
        return None

BLOCKED = frozenset(json.loads(os.environ["BLOCKED"]))
sys.meta_path.insert(0, Block())
"""


def test_answering_needs_only_its_own_requirements(released: Path, tmp_path: Path) -> None:
    """With every package refused that requirements-answer.txt does not name."""
    lock = (ROOT / "requirements-answer.txt").read_text(encoding="utf-8")
    normal = re.compile(r"[-_.]+")
    pinned = {normal.sub("-", name).lower() for name in re.findall(r"^([\w.-]+)==", lock, re.M)}
    blocked = [
        package
        for package, owners in packages_distributions().items()
        if not {normal.sub("-", owner).lower() for owner in owners} & {*pinned, "bert-qa"}
    ]
    assert {"torch", "transformers", "dvc", "ruamel"} <= set(blocked)
    (tmp_path / "in.csv").write_text(f"Context,Question\n{CONTEXT},{QUESTION}\n", encoding="utf-8")
    program = BLOCKED + "from bert_qa.cli import main\nif __name__ == '__main__':\n    main()\n"
    (tmp_path / "blocked.py").write_text(program, encoding="utf-8")
    asked = ["answer", "in.csv", "-o", "out.csv", "--model", str(released), "--sessions", "1"]
    done = subprocess.run(
        [sys.executable, "blocked.py", *asked],
        cwd=tmp_path,
        env={**os.environ, "BLOCKED": json.dumps(blocked)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1


def test_importing_the_package_imports_nothing_slow() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import bert_qa"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    slow = {"torch", "transformers", "dvc", "pandas", "numpy", "onnxruntime"}
    assert "bert_qa.reader" in imported
    assert not imported & slow
