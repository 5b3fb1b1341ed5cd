"""CSV in, CSV out: shapes of tables that people bring, and mistakes in them."""

from __future__ import annotations

import csv
import gc
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

from qa import table
from qa.errors import UserError
from qa.spans import Answer
from qa.squad import Example
from qa.table import answer_table, check_table


def first_word(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
    """A stand-in for the engine, which these tests are not about."""
    for examples in chunks:
        words = [example.context.split()[0] for example in examples]
        yield [Answer(word, 0.25, 0, len(word)) for word in words]


def answered(path: Path) -> list[list[str]]:
    output = path.with_name("output.csv")
    check_table(path, output)
    answer_table(path, output, first_word)
    with output.open(encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "input.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


SCORED = ["0.250000", "0", "1"]
HEADER = ["Context", "Question", "Answer", "Score", "Start", "End"]


@pytest.mark.parametrize(
    "content",
    [
        "Context,Question\nAda was here,Who?\n",
        "question,CONTEXT\nWho?,Ada was here\n",
        "\ufeffContext,Question\r\nAda was here,Who?\r\n",
        '" Context ","Question"\n"Ada was here","Who?"',
    ],
)
def test_columns_in_any_order_and_case(tmp_path: Path, content: str) -> None:
    assert answered(write(tmp_path, content)) == [
        HEADER,
        ["Ada was here", "Who?", "Ada", "0.250000", "0", "3"],
    ]


def test_further_columns_follow_and_text_stays_as_it_is(tmp_path: Path) -> None:
    path = write(
        tmp_path, "Id,Question,Context,Note\n007,Who?,NA was here,\n1e3,Who?,null x,1.50\n"
    )
    assert answered(path) == [
        [*HEADER, "Id", "Note"],
        ["NA was here", "Who?", "NA", "0.250000", "0", "2", "007", ""],
        ["null x", "Who?", "null", "0.250000", "0", "4", "1e3", "1.50"],
    ]


def test_commas_quotes_and_line_breaks_survive(tmp_path: Path) -> None:
    context = 'He said: "one,\r\ntwo\n\nthree" and\rfour'
    path = tmp_path / "input.csv"
    with path.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([["Context", "Question"], [context, 'Who, "if" anyone?']])
    assert answered(path)[1][:2] == [context, 'Who, "if" anyone?']


def test_a_lone_carriage_return_survives(tmp_path: Path) -> None:
    path = write(tmp_path, '"Context","Question"\n"a\rb","q\r"\n')
    assert answered(path)[1][:2] == ["a\rb", "q\r"]


def test_columns_of_one_name_and_of_none_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, "Note,Context,Note,Question,\n1,a,2,b,3\n")
    header, row = answered(path)
    assert header == [*HEADER, "Note", "Note", ""]
    assert row == ["a", "b", "a", *SCORED, "1", "2", "3"]


def test_chunks_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CHUNK_ROWS", 3)
    path = write(tmp_path, "Context,Question\n" + "".join(f"w{i} x,Who?\n" for i in range(10)))
    assert check_table(path, path.with_name("output.csv")) == 10
    assert [row[2] for row in answered(path)[1:]] == [f"w{i}" for i in range(10)]


def test_a_header_alone_gives_a_header_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "Context,Question\n")
    assert check_table(path, path.with_name("output.csv")) == 0
    assert answered(path) == [HEADER]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty; expected a header"),
        ("Text,Question\na,b\n", "no column Context in the header Text, Question"),
        ("Context;Question\na;b\n", "the fields are separated by ';': use commas"),
        ("Context,Question,question\na,b,c\n", "more than one column Question"),
        ("Context,Question,Question\na,b,c\n", "more than one column Question"),
        ("Context,Question,answer\na,b,c\n", "column Answer is one that the answers need"),
        ("Context,Question\na,b\nc,\n", "row 2: Question is empty"),
        ("Context,Question\na,b\n  ,d\n", "row 2: Context is empty"),
        ("Context,Question\na,b\nc\n", "row 2: Question is empty"),
        ("Context,Question\na,b\nc,d,e\n", "row 2: 3 fields, the header has 2"),
        ("Context,Question\na,b,c\nd,e,f\n", "row 1: 3 fields, the header has 2"),
        ('Context,Question\na,b\n"c,d\n', "row 2: unexpected end of data; mend its quotes"),
        # Text that pandas alone would take, swallowing the rows between.
        ('Context,Question\n"c,d\ne,f\n"g","h"\n', "row 1: ',' expected after '\"'; mend"),
        ('Context,Question\na,b\n"in "London"",d\n', "row 2: ',' expected after '\"'; mend"),
        ("Context,Question\na,\u200b\n", "row 1: Question is empty"),
        ("Context,Question\na\0b,c\n", "row 1: a NUL character"),
        (b"PK\x03\x04\xff", "an Excel workbook; save it as CSV"),
        ("Context,Question\n".encode("utf-16"), "line 1: not UTF-8"),
        (b"Context,Question\nna\xefve,b\n", "line 2: not UTF-8 \\(byte 0xef\\)"),
        (b"Context,Question\n" + b"a,b\n" * 300_000 + b"na\xefve,b\n", "line 300002: not UTF-8"),
        ("Context,Question\n" + "x" * 200_000 + ",b\na,b,c\n", "row 2: 3 fields"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    tmp_path: Path, content: str | bytes, says: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=says) as error:
        check_table(path, path.with_name("output.csv"))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_chunks_are_bounded_by_rows_and_by_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "CHUNK_ROWS", 4)
    monkeypatch.setattr(table, "CHUNK_CHARACTERS", 100)
    lengths = [3, 3, 3, 3, 3, 90, 50, 60, 300, 3, 3]
    path = write(
        tmp_path, "Context,Question\n" + "".join(f"{'a' * length},b\n" for length in lengths)
    )
    sizes: list[int] = []

    def noting(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
        for examples in chunks:
            sizes.append(sum(len(example.context) for example in examples))
            assert len(examples) <= 4
            yield from first_word([examples])

    answer_table(path, tmp_path / "output.csv", noting)
    assert sum(sizes) == sum(lengths)
    assert max(sizes) <= 100 + 300  # what a chunk may hold, and one context that is longer
    assert answered(path)[1:] == [["a" * n, "b", "a" * n, "0.250000", "0", str(n)] for n in lengths]


def test_chunks_that_are_answered_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "CHUNK_ROWS", 2)
    path = write(tmp_path, "Context,Question\n" + "Ada was here,Who?\n" * 140)
    alive = []

    def counted(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
        for answers in first_word(chunks):
            alive.append(sum(type(thing) is pd.DataFrame for thing in gc.get_objects()))
            yield answers

    gc.collect()  # what earlier tests left would be taken for ours when it goes
    answer_table(path, tmp_path / "output.csv", counted)
    assert len(alive) == 71
    assert max(alive) - min(alive) <= 5


def test_answers_that_are_missing_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "CHUNK_ROWS", 2)
    path = write(tmp_path, "Context,Question\n" + "Ada was here,Who?\n" * 8)
    output = tmp_path / "output.csv"
    with pytest.raises(RuntimeError, match="fewer answers"):
        answer_table(path, output, lambda chunks: list(first_word(chunks))[:-1])
    with pytest.raises(RuntimeError, match="fewer answers"):
        answer_table(path, output, lambda chunks: itertools.islice(first_word(chunks), 2))
    assert not output.exists()


def test_a_failure_leaves_the_last_output(tmp_path: Path) -> None:
    path = write(tmp_path, "Context,Question\na,b\n")
    answered(path)
    before = (tmp_path / "output.csv").read_bytes()

    def fail(_: Iterable[Sequence[Example]]) -> list[list[Answer]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_table(path, tmp_path / "output.csv", fail)
    assert (tmp_path / "output.csv").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"input.csv", "output.csv"}
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: a folder; name a file in infer\.output"):
        check_table(path, tmp_path / "folder")
    with pytest.raises(UserError, match="no such file"):
        check_table(tmp_path / "absent.csv", tmp_path / "output.csv")
