"""Records: both SQuAD versions, the sample data set, and what a bad record says."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_qa.errors import UserError, one_line
from bert_qa.plots import question_word
from bert_qa.squad import (
    Example,
    Fault,
    Span,
    check_answerable,
    examples_from_records,
    read_examples,
    read_questions,
    subset,
    write_examples,
    write_faults,
)
from tests.conftest import ROOT


def squad_file(path: Path, *qas: dict[str, Any], context: str = "Ada lived in London.") -> Path:
    data = [{"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path


def question(id_: str = "q1", text: str = "London", start: int = 13) -> dict[str, Any]:
    return {"id": id_, "question": "Where did Ada live?", "answers": [answer(text, start)]}


def answer(text: Any, start: Any) -> dict[str, Any]:
    return {"text": text, "answer_start": start}


def test_reads_both_versions_of_squad(tmp_path: Path) -> None:
    impossible = {"id": "q2", "question": "Who?", "answers": [], "is_impossible": True}
    examples = read_questions(squad_file(tmp_path / "s.json", question(), impossible))
    assert examples == [
        Example("q1", "Where did Ada live?", "Ada lived in London.", (Span("London", 13),)),
        Example("q2", "Who?", "Ada lived in London.", ()),
    ]


def test_an_impossible_question_has_no_answers_whatever_the_file_says(tmp_path: Path) -> None:
    record = {**question(), "is_impossible": True}
    assert read_questions(squad_file(tmp_path / "s.json", record))[0].answers == ()


def test_written_examples_come_back(tmp_path: Path) -> None:
    examples = [
        Example("1", "Où ?", "Été à Paris,\nligne 2", (Span("Paris", 6), Span("à Paris", 4))),
        Example("2", "Who?", "Nobody.", ()),
    ]
    write_examples(tmp_path / "x.jsonl", examples)
    assert read_examples(tmp_path / "x.jsonl") == examples


def test_hub_records_become_the_same_examples() -> None:
    record = {
        "id": "q1",
        "title": "t",
        "question": "Where did Ada live?",
        "context": "Ada lived in London.",
        "answers": {"text": ["London"], "answer_start": [13]},
    }
    assert examples_from_records([record], "hub")[0].answers == (Span("London", 13),)


@pytest.mark.fault("SQuAD JSON: {says}")
@pytest.mark.parametrize(
    ("qas", "says"),
    [
        ([question(start=12)], r"question q1: answer 'London' is not at answer_start 12"),
        ([question(start=-6)], r"question q1: answer 'London' is not at answer_start -6"),
        ([question(start=10**4299)], r"question q1: answer 'London' is not at answer_start 1000"),
        ([question(), question()], r"question q1: the id occurs twice"),
        ([{**question(), "question": "  "}], r"question q1: the question is empty"),
        ([{**question(), "question": "Who \ud83d?"}], r"question q1: the question has half a"),
        ([{"id": "q1", "answers": []}], r'no "question" in data\[0\]\.paragraphs\[0\]\.qas\[0\]'),
        ([{**question(), "id": None}], r"question in data\[0\]\..*: the id is null and not text"),
        ([{**question(), "id": {"a": 1}}], r"the id is {'a': 1} and not text"),
        ([question("q\ud800")], r"qas\[0\]: the id has half a character"),
        ([{**question(), "question": None}], r"question q1: the question is null and not text"),
        ([{**question(), "answers": None}], r"question q1: answers is null and not a list"),
        ([{**question(), "answers": [1]}], r"question q1: the answer 1 has not both"),
        ([{**question(), "answers": [{"text": "a"}]}], r"the answer {'text': 'a'} has not both"),
        ([{"id": "q1", "question": "Who?"}], r"question q1: it has no answers"),
        ([], r"no questions in it"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, qas: list[dict[str, Any]], says: str) -> None:
    path = squad_file(tmp_path / "bad.json", *qas)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: .*{says}") as raised:
        read_questions(path)
    assert len(str(raised.value)) < 600
    assert one_line(str(raised.value)) == str(raised.value)


@pytest.mark.fault("an `answer_start` of {start}")
@pytest.mark.parametrize(
    "start", ["22.7", "1e999", "Infinity", "NaN", "true", "null", '"13"', "[]"]
)
def test_an_offset_is_an_integer(tmp_path: Path, start: str) -> None:
    path = squad_file(tmp_path / "s.json", question(start=13))
    path.write_text(path.read_text("utf-8").replace(": 13", f": {start}"), "utf-8")
    with pytest.raises(UserError, match=r"question q1: answer 'London' has answer_start .*integer"):
        read_questions(path)


def test_an_offset_that_a_table_made_a_float_is_the_integer_that_it_equals(tmp_path: Path) -> None:
    path = squad_file(tmp_path / "s.json", {**question(), "answers": [answer("London", 13.0)]})
    assert read_questions(path)[0].answers == (Span("London", 13),)


@pytest.mark.fault("an answer of {text}")
@pytest.mark.parametrize("text", [None, 5, ["London"], True])
def test_an_answer_is_text(tmp_path: Path, text: Any) -> None:
    path = squad_file(tmp_path / "s.json", {**question(), "answers": [answer(text, 0)]})
    with pytest.raises(UserError, match=r"question q1: the text of an answer is .* and not text"):
        read_questions(path)


@pytest.mark.fault(
    "an `is_impossible` that is text", sees="it is read as the boolean that it spells"
)
@pytest.mark.parametrize(
    ("spelt", "answers"),
    [("false", 1), ("False", 1), (False, 1), (None, 1), ("true", 0), (" TRUE ", 0), (True, 0)],
)
def test_impossible_is_read_as_the_boolean_that_it_spells(
    tmp_path: Path, spelt: Any, answers: int
) -> None:
    path = squad_file(tmp_path / "s.json", {**question(), "is_impossible": spelt})
    assert len(read_questions(path)[0].answers) == answers


@pytest.mark.fault("an `is_impossible` of {spelt}")
@pytest.mark.parametrize("spelt", ["no", "", 0, 1, [], {}, 0.5])
def test_impossible_that_spells_no_boolean_is_refused(tmp_path: Path, spelt: Any) -> None:
    path = squad_file(tmp_path / "s.json", {**question(), "is_impossible": spelt})
    with pytest.raises(UserError, match=r"question q1: is_impossible is .* neither true nor false"):
        read_questions(path)


def test_an_empty_answer_is_none(tmp_path: Path) -> None:
    """Beside a good one it is left out, as SQuAD's own script does; an annotator's is "none"."""
    beside = {**question("a"), "answers": [answer("London", 13), answer("", 13), answer(" ", 3)]}
    only = {"id": 5, "question": "Where?", "is_impossible": False, "answers": [answer("", 0)]}
    a, five = read_questions(squad_file(tmp_path / "s.json", beside, only))
    assert a.answers == (Span("London", 13),)
    assert (five.id, five.answers) == ("5", ())


@pytest.mark.fault("many answers that are not where they are said to be")
def test_bad_answers_are_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    qas = [question(f"q{i}", start=i) for i in range(30)]
    with pytest.raises(UserError) as raised:
        read_questions(squad_file(tmp_path / "s.json", *qas))
    message = str(raised.value)
    assert "29 of 30 questions cannot be used: question q0: " in message
    assert "question q9: " in message
    assert "question q10: " not in message
    assert "; and 19 more; fix it, or leave such questions out: set dataset.on_bad" in message
    assert "\n" not in message


@pytest.mark.fault(
    "the same, with `dataset.on_bad_answer=drop`",
    sees="they are left out and listed in data/squad/dropped.jsonl",
)
def test_bad_answers_are_left_out_on_request(tmp_path: Path) -> None:
    qas = [question("a", start=3), question("b"), question("b"), {**question("c"), "question": ""}]
    dropped: list[Fault] = []
    examples = read_questions(squad_file(tmp_path / "s.json", *qas), dropped)
    assert [example.id for example in examples] == ["b"]
    assert [fault.question for fault in dropped] == ["a", "b", "c"]
    write_faults(tmp_path / "dropped.jsonl", {"train": dropped, "validation": []})
    lines = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "split": "train",
        "question": "b",
        "reason": "the id occurs twice; ids must be unique",
    }
    with pytest.raises(UserError, match="question a: answer 'London' is not at answer_start 3"):
        read_questions(squad_file(tmp_path / "s.json", qas[0]), [])


@pytest.mark.fault("an answer with other white space than its context")
def test_white_space_shows_in_a_message(tmp_path: Path) -> None:
    context = "Ada lived in the  old town."
    path = squad_file(tmp_path / "s.json", question(text="the old town"), context=context)
    with pytest.raises(UserError) as raised:
        read_questions(path)
    assert "'the old town' is not at answer_start 13" in one_line(str(raised.value))
    assert "has 'the  old tow'" in one_line(str(raised.value))


@pytest.mark.parametrize("lines", [1, 2])
def test_json_lines_are_read_as_well(tmp_path: Path, lines: int) -> None:
    examples = [Example(str(i), "Who?", "Ada.\u2028B", (Span("Ada", 0),)) for i in range(lines)]
    write_examples(tmp_path / "x.json", examples)
    assert read_questions(tmp_path / "x.json") == examples


@pytest.mark.fault("a file of {content}, given as SQuAD JSON")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON: .* at line 1"),
        (b'{"data": 1}', '"data" at the top is 1 and not a list'),
        (b'{"data": "abc"}', "not a list; expected SQuAD JSON"),
        (b'{"data": {"paragraphs": []}}', "not a list; expected SQuAD JSON"),
        (b'{"data": [{"paragraphs": ""}]}', r'"paragraphs" in data\[0\] is \'\' and not a list'),
        (b'{"data": [null]}', r'no "paragraphs" in data\[0\]'),
        (
            b'{"data": [{"paragraphs": [{"qas": []}]}]}',
            r'no "context" in data\[0\].paragraphs\[0\]',
        ),
        (b"[]", r'no "data" at the top, but \[\]; expected SQuAD JSON, or records with question'),
        (b"null", 'no "data" at the top, but null; expected SQuAD JSON'),
        (b'{"id": {"0": "a"}}', r"no \"data\" at the top, but \['id'\]; expected SQuAD JSON"),
        (b"Context,Question\n", "not JSON: .* at line 1; it begins with 'Context,Question"),
        (b'{"data": "\xff"}', "not UTF-8 at byte 10"),
        (b'{"data": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"data": ' + b"9" * 5000 + b"}", "Exceeds the limit .* value has 5000 digits$"),
        (b'{"data": [], "data": []}', "the key 'data' occurs twice in one object"),
        (
            b'{"data": []}\n{"data": []}',
            "2 of 2 questions cannot be used: question on line 1: it has no question",
        ),
        (b'{"id": "a", "context": "b"}\n[1]', r"line 2 is \[1\], not a record in JSON"),
        (b'{"id": "a", "context": "b"}\n{', "line 2 is not JSON"),
        ('{"data": []}'.encode("utf-16"), "text in UTF-16; save it as UTF-8"),
        (b"PAR1" + bytes(99), "a Parquet file that cannot be read"),
        (b"\xff\xff\xff\xff" + bytes(9), "an Arrow stream; write it as SQuAD JSON, JSON Lines"),
        (b"PK\x03\x04", "a zip archive; write it as"),
        (b"\x1f\x8b\x08", "compressed by gzip, and cut off or spoilt"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS; .* git lfs pull"),
        (b"", "not JSON"),
        (b"\0", "not JSON"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as raised:
        read_questions(path)
    assert one_line(str(raised.value)) == str(raised.value)


@pytest.mark.fault("a path that leads to no SQuAD JSON")
def test_a_path_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_questions(tmp_path / "absent.json")
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json"):
        with pytest.raises(UserError, match="not a file"):
            read_questions(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[1]\n", r"line 1 is \[1\], not a record"),
        (b"\xff\n", "not UTF-8 below line 0"),
        (b"[" * 100_000, "line 1 is not JSON that can be read: nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "line 1 is not JSON that can be read: Exceeds the limit"),
        (b"{}\n", "question on line 1: it has no question; run `dvc repro download_dataset` anew"),
        (b"", "no questions in it"),
    ],
)
def test_a_broken_data_set_of_the_project_is_named(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_examples(tmp_path / "x.jsonl")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    context = draw(TEXTS)
    spans = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(context) - 1))
        text = context[start : draw(st.integers(start + 1, len(context)))]
        if text.strip():
            spans.append(Span(text, start))
    return Example(draw(TEXTS), draw(TEXTS), context, tuple(spans))


@given(st.lists(examples(), min_size=1, unique_by=lambda example: example.id))
def test_any_examples_come_back_exactly(some: list[Example]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        write_examples(path, some)
        assert read_examples(path) == read_questions(path) == some


ANY_TEXT = st.text(st.characters(), max_size=5)  # lone surrogates included
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.just("London"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a value of JSON."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


@given(st.data())
def test_a_changed_file_is_read_consistently_or_refused_in_one_line(data: st.DataObject) -> None:
    impossible = {"id": "b", "question": "Who?", "answers": [], "is_impossible": True}
    paragraph = {"context": "Ada lived in London.", "qas": [question("a"), impossible]}
    flat = {"id": 1, "question": "Who?", "context": "Ada.", "answers": {"text": [""]}}
    content = data.draw(st.sampled_from([{"data": [{"paragraphs": [paragraph]}]}, flat]))
    content = {"top": json.loads(json.dumps(content))}
    for _ in range(data.draw(st.integers(1, 3))):
        *path, key = data.draw(st.sampled_from(list(places(content))[1:]))
        parent: Any = content
        for part in path:
            parent = parent[part]
        action = data.draw(st.sampled_from(["replace", "remove", "repeat"]))
        if action == "replace" or not path:
            parent[key] = data.draw(ANY_JSON)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, parent[key])
        else:
            parent[data.draw(ANY_TEXT)] = parent[key]
    text = json.dumps(content["top"])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(text, "utf-8")
        dropped: list[Fault] = []
        try:
            found = read_questions(path, dropped)
        except UserError as error:
            assert one_line(str(error)) == str(error)
            return
        assert len({example.id for example in found}) == len(found) > 0
        for example in found:
            for span in example.answers:
                assert example.context[span.start :].startswith(span.text)
                assert span.text.strip()
        write_examples(path, found)
        assert read_examples(path) == found
        write_faults(Path(folder) / "dropped.jsonl", {"train": dropped})


@pytest.mark.fault("unanswerable questions without `decoding.version_2_with_negative`")
def test_unanswerable_questions_need_a_decoding_that_can_say_so() -> None:
    answered = Example("a", "?", "c", (Span("c", 0),))
    check_answerable([answered], "mine.json")
    with pytest.raises(
        UserError, match=r"mine\.json: 2 of 3 questions have no answer; set decoding\.version_2"
    ):
        check_answerable([answered, Example("b", "?", "c"), Example("d", "?", "c")], "mine.json")


def test_subset_is_a_function_of_the_seed() -> None:
    examples = [Example(str(i), "?", "c") for i in range(100)]
    drawn = subset(examples, 10, seed=1)
    assert drawn == subset(examples, 10, seed=1) != subset(examples, 10, seed=2)
    assert [int(e.id) for e in drawn] == sorted(int(e.id) for e in drawn)
    assert subset(examples, None, seed=1) == subset(examples, 1000, seed=1) == examples


def test_the_sample_is_what_its_card_says() -> None:
    splits = {
        split: read_questions(ROOT / f"data/sample/{split}.json")
        for split in ("train", "validation")
    }
    contexts = {split: {e.context for e in examples} for split, examples in splits.items()}
    assert not contexts["train"] & contexts["validation"]
    assert len(contexts["train"]) + len(contexts["validation"]) == 112
    assert len(contexts["validation"]) * 4 == 112
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 639,
        "validation": 209,
    }
    words = [len(context.split()) for context in contexts["train"] | contexts["validation"]]
    assert sum(count >= 500 for count in words) == 8
    assert all(60 <= count <= 250 or count >= 500 for count in words)
    everything = [*splits["train"], *splits["validation"]]
    assert len({e.question for e in everything}) == len(everything)
    kinds = Counter(question_word(e.question) for e in everything)
    assert all(kinds[word] >= 25 for word in ("how", "how many", "how long", "what", "when"))
    assert all(kinds[word] >= 25 for word in ("where", "which", "who", "why"))
    assert all(e.answers for e in everything)
