"""Files of questions, in every form that people have them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bert_qa.errors import UserError
from bert_qa.squad import Example, Span, read_questions, write_examples

CONTEXT = "Ada was in London, Byron in Greece."
EXAMPLES = [
    Example("a", "Who was in Greece?", CONTEXT, (Span("Byron", 19), Span("Byron in Greece", 19))),
    Example("b", "Where was Ada?", CONTEXT, (Span("London", 11),)),
    Example("c", "Wer war in München?", "Niemand war in München.", ()),
]


def structs(example: Example) -> list[dict[str, Any]]:
    return [{"text": span.text, "answer_start": span.start} for span in example.answers]


def flat(example: Example, *, lists: bool) -> dict[str, Any]:
    answers: Any = structs(example)
    if lists:
        answers = {key: [each[key] for each in answers] for key in ("text", "answer_start")}
    return {
        "id": example.id,
        "title": "not read",
        "context": example.context,
        "question": example.question,
        "answers": answers,
    }


def squad_json(path: Path) -> None:
    qas = [{"id": e.id, "question": e.question, "answers": structs(e)} for e in EXAMPLES]
    paragraphs = [
        {"context": CONTEXT, "qas": qas[:2]},
        {"context": EXAMPLES[2].context, "qas": [{**qas[2], "is_impossible": True}]},
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": paragraphs}]}))


def array(path: Path) -> None:
    path.write_text(json.dumps([flat(e, lists=True) for e in EXAMPLES], indent=1))


def under_data(path: Path) -> None:
    """As transformers' example script reads it."""
    path.write_text(json.dumps({"data": [flat(e, lists=False) for e in EXAMPLES]}))


def json_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps(flat(e, lists=True)) for e in EXAMPLES))


def columns(path: Path, *, lists: bool) -> None:
    parquet.write_table(
        pa.Table.from_pylist([flat(e, lists=lists) for e in EXAMPLES]), path, row_group_size=2
    )


def struct_of_lists(path: Path) -> None:
    columns(path, lists=True)


def list_of_structs(path: Path) -> None:
    columns(path, lists=False)


def mrqa(path: Path) -> None:
    """A header, then a paragraph a line; the last character of an answer counts as inside."""

    def found(example: Example) -> list[dict[str, Any]]:
        return [
            {"text": s.text.lower(), "char_spans": [[s.start, s.start + len(s.text) - 1]]}
            for s in example.answers
        ]

    lines: list[dict[str, Any]] = [{"header": {"dataset": "Ada", "split": "dev"}}]
    for group in (EXAMPLES[:2], EXAMPLES[2:]):
        qas = [
            {
                "qid": e.id,
                "question": e.question,
                "answers": [s.text for s in e.answers],
                "detected_answers": found(e),
            }
            for e in group
        ]
        lines.append({"id": "", "context": group[0].context, "qas": qas})
    path.write_text("\n".join(map(json.dumps, lines)))


def our_own(path: Path) -> None:
    write_examples(path, EXAMPLES)


FORMS: list[Callable[[Path], None]] = [
    squad_json,
    array,
    under_data,
    json_lines,
    struct_of_lists,
    list_of_structs,
    mrqa,
    our_own,
]


@pytest.mark.parametrize("zipped", [False, True], ids=["", "gzip"])
@pytest.mark.parametrize("write", FORMS)
def test_every_form_is_the_same_questions(
    tmp_path: Path, write: Callable[[Path], None], zipped: bool
) -> None:
    path = tmp_path / "questions"  # the name says nothing
    write(path)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
        if write in {struct_of_lists, list_of_structs}:
            with pytest.raises(UserError, match="a Parquet file under gzip; unpack it"):
                read_questions(path)
            return
    assert read_questions(path) == EXAMPLES


def test_a_parquet_file_of_large_strings_and_dictionaries(tmp_path: Path) -> None:
    """As pandas and Spark write them."""
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("question", pa.dictionary(pa.int32(), pa.string())),
            ("context", pa.large_string()),
            (
                "answers",
                pa.struct(
                    [
                        ("text", pa.large_list(pa.large_string())),
                        ("answer_start", pa.list_(pa.int32())),
                    ]
                ),
            ),
        ]
    )
    rows = [{**flat(e, lists=True), "id": n} for n, e in enumerate(EXAMPLES)]
    parquet.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "x", compression="zstd")
    read = read_questions(tmp_path / "x")
    assert [e.id for e in read] == ["0", "1", "2"]
    assert [(e.question, e.answers) for e in read] == [(e.question, e.answers) for e in EXAMPLES]


@pytest.mark.fault("a Parquet file {flaw}")
@pytest.mark.parametrize(
    ("flaw", "says"),
    [
        ("without a column of answers", r"a Parquet file without a column answers; it has \['id'"),
        ("that is cut off", "a Parquet file that cannot be read"),
        ("with a number as a question", "question a: the question is 7 and not text"),
        ("whose offset is wrong", "in row|answer 'Byron' is not at answer_start 20"),
        ("of no rows", "no questions in it"),
    ],
)
def test_a_parquet_file_that_will_not_do(tmp_path: Path, flaw: str, says: str) -> None:
    rows = [flat(e, lists=True) for e in EXAMPLES[:1]]
    path = tmp_path / "x.parquet"
    table = pa.Table.from_pylist(rows)
    if "without" in flaw:
        table = table.drop_columns(["answers"])
    elif "number" in flaw:
        table = pa.Table.from_pylist([{**rows[0], "question": 7}])
    elif "offset" in flaw:
        answers = {"text": ["Byron"], "answer_start": [20]}
        table = pa.Table.from_pylist([{**rows[0], "answers": answers}])
    elif "no rows" in flaw:
        table = table.slice(0, 0)
    parquet.write_table(table, path)
    if "cut off" in flaw:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=says):
        read_questions(path)


@pytest.mark.fault("MRQA whose answers {answers} have no places in the context")
@pytest.mark.parametrize(
    "answers",
    [None, 7, [7], [{"text": "Ada"}], [{"text": "Ada", "char_spans": [3]}]],
    ids=repr,
)
def test_mrqa_without_places_is_named(tmp_path: Path, answers: Any) -> None:
    qas = [{"qid": "a", "question": "Who?", "detected_answers": answers}]
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"context": CONTEXT, "qas": qas}) + "\n")
    with pytest.raises(UserError, match="question a: "):
        read_questions(path)


@pytest.mark.fault("MRQA whose answer Ada is at {place}")
@pytest.mark.parametrize("place", [[900, 902], [1, 3], [2, 4]], ids=str)
def test_mrqa_with_an_answer_elsewhere_is_named(tmp_path: Path, place: list[int]) -> None:
    detected = [{"text": "Ada", "char_spans": [place]}]
    qas = [{"qid": "a", "question": "Who?", "detected_answers": detected}]
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"context": CONTEXT, "qas": qas}) + "\n")
    with pytest.raises(
        UserError, match=rf"question a: answer 'Ada' is not at answer_start {place[0]}"
    ):
        read_questions(path)
