"""CSV in, CSV out: shapes of tables that people bring, and mistakes in them."""

from __future__ import annotations

import csv
import gc
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bert_qa.errors import UserError
from bert_qa.files import resumable_file
from bert_qa.journal import Journal
from bert_qa.spans import Answer
from bert_qa.squad import Example
from bert_qa.tables import table
from bert_qa.tables.csv_rows import FORMULA_STARTS
from bert_qa.tables.rows import Row
from bert_qa.tables.table import answer_table, check_table, waiting_file


def first_word(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
    """A stand-in for the engine, which these tests are not about."""
    for examples in chunks:
        words = [example.context.split()[0] for example in examples]
        yield [Answer(word, 0.25, 0, len(word)) for word in words]


def answer(
    path: Path, answer_chunks: Any = first_word, *, escape_formulas: bool = False, **checks: Any
) -> Path:
    """Answer a table as `bert_qa.answering_tables` does, but for the model."""
    output = path.with_name("output.csv")
    with resumable_file(output) as unfinished:
        table = check_table(path, **checks)
        with Journal(waiting_file(table, unfinished), "test") as journal:
            answer_table(table, unfinished, journal, answer_chunks, escape_formulas=escape_formulas)
    return output


def answered(path: Path, **options: Any) -> list[list[str]]:
    with answer(path, **options).open(encoding="utf-8", newline="") as lines:
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
    assert check_table(path).rows == 10
    assert [row[2] for row in answered(path)[1:]] == [f"w{i}" for i in range(10)]


def test_a_header_alone_gives_a_header_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "Context,Question\n")
    assert check_table(path).rows == 0
    assert answered(path) == [HEADER]


@pytest.mark.fault("a table of {content}")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty; expected a header"),
        ("Text,Question\na,b\n", "no column Context in the header Text, Question"),
        ("Context;Question\na;b\n", "the fields are separated by ';': use commas"),
        ("Context,Question,question\na,b,c\n", "more than one column Question"),
        ("Context,Question,Question\na,b,c\n", "more than one column Question"),
        (
            "Context,Question,answer\na,b,c\n",
            "column 'Answer' is reserved for the output; rename it",
        ),
        ("Context,Question\na,b\nc,\n", "row 2: Question is empty"),
        ("Context,Question\na,b\n  ,d\n", "row 2: Context is empty"),
        ("Context,Question\na,b\nc\n", "row 2: Question is empty"),
        ("Context,Question\na,b\nc,d,e\n", "row 2: 3 fields, the header has 2"),
        ("Context,Question\na,b,c\nd,e,f\n", "row 1: 3 fields, the header has 2"),
        ('Context,Question\na,b\n"c,d\n', "row 2: unexpected end of data; fix its quotes"),
        # Text that pandas alone would take, swallowing the rows between.
        ('Context,Question\n"c,d\ne,f\n"g","h"\n', "row 1: ',' expected after '\"'; fix"),
        ('Context,Question\na,b\n"in "London"",d\n', "row 2: ',' expected after '\"'; fix"),
        ("Context,Question\na,\u200b\n", "row 1: Question is empty"),
        ("Context,Question\na\0b,c\n", "row 1: a NUL character"),
        (b"PK\x03\x04\xff", "an Excel workbook or a zip archive; save it as CSV"),
        ("Context,Question\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("Context,Question\n".encode("utf-16-le"), "no column Context in the header"),
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
        check_table(path)
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

    answer(path, noting)
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
            alive.append(sum(type(thing) is Row for thing in gc.get_objects()))
            yield answers

    gc.collect()  # what earlier tests left would be taken for ours when it goes
    answer(path, counted)
    assert len(alive) == 70
    assert max(alive) <= 3 * 2


def test_answers_that_are_missing_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "CHUNK_ROWS", 2)
    path = write(tmp_path, "Context,Question\n" + "Ada was here,Who?\n" * 8)
    output = tmp_path / "output.csv"
    with pytest.raises(RuntimeError, match="fewer answers"):
        answer(path, lambda chunks: list(first_word(chunks))[:-1])
    with pytest.raises(RuntimeError, match="fewer answers"):
        answer(path, lambda chunks: itertools.islice(first_word(chunks), 0))
    assert not output.exists()


def test_a_failure_leaves_the_last_output(tmp_path: Path) -> None:
    path = write(tmp_path, "Context,Question\na,b\n")
    answered(path)
    before = (tmp_path / "output.csv").read_bytes()

    def fail(_: Iterable[Sequence[Example]]) -> list[list[Answer]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(path, fail)
    assert (tmp_path / "output.csv").read_bytes() == before
    assert answered(path) == [HEADER, ["a", "b", "a", *SCORED]]
    assert {file.name for file in tmp_path.iterdir()} == {"input.csv", "output.csv"}


@pytest.mark.fault(
    "what spreadsheets leave around a table: {content}", sees="the table that was meant"
)
@pytest.mark.parametrize(
    "content",
    [
        "\nContext,Question\na,b\n",
        "\n  \n,,\nContext,Question\na,b\n",
        "\ufeff\ufeffContext,Question\na,b\n",
        '\ufeff\ufeff"Context","Question"\na,b\n',
        "Context,Question\na,b\n,\n , \n,,,\n",
        "Context,Question\n\n,\na,b\n",
        "Context,Question\ra,b\r",
    ],
)
def test_what_programs_leave_around_a_table_is_no_row(tmp_path: Path, content: str) -> None:
    assert answered(write(tmp_path, content)) == [HEADER, ["a", "b", "a", *SCORED]]


@pytest.mark.fault("a file of {content}, given as a table")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\n\n \n", "empty; expected a header"),
        ("<html><table>", "it seems to be HTML"),
        ("Context|Question\na|b\n", "separated by '|'"),
        ('[{"Context": "a"}]', "it seems to be JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; fetch the file"),
        ("Context,Question\na,bc\n", r"row 1: Question has 2 characters, more than infer\.max_"),
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b"\xd0\xcf\x11\xe0\xa1", "an old Excel workbook"),
        ("Context,Question\nI live\rin London,b\n", "line 2 ends in a lone carriage return: put"),
        ("Context,Question\nab,c\n", r"row 1: Context has 2 characters, more than infer\.max_"),
        ("Question,Context\nab,\n", "row 1: Context is empty; fix or drop it, or set infer.on_er"),
    ],
)
def test_what_is_no_table_of_ours_is_named(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_table(write(tmp_path, content), max_context_characters=1)


@pytest.mark.fault("many rows that cannot be answered")
def test_rows_that_cannot_be_answered_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "Context,Question\n" + "a,\nb,c\n" * 12)
    with pytest.raises(UserError) as error:
        check_table(path)
    named = "; ".join(f"row {row}: Question is empty" for row in range(1, 20, 2))
    assert str(error.value) == (
        f"{path}: 12 rows cannot be answered: {named}; and 2 more; fix or drop them, or set"
        " infer.on_error=keep"
    )


@pytest.mark.fault(
    "the same, with `infer.on_error=keep`",
    sees="an empty answer and the reason in the column Error; how many, at the end",
)
def test_rows_that_cannot_be_answered_are_kept_with_the_reason(tmp_path: Path) -> None:
    lines = ["Id,Context,Question", "1,Ada was here,Who?", "2,,Who?", "3,a,b,c,d", "4,longer,b"]
    path = write(tmp_path, "\n".join(lines))
    assert check_table(path, on_error="keep", max_context_characters=12).bad == 2
    head, *rows = answered(path, on_error="keep", max_context_characters=12)
    assert head == [*HEADER, "Error", "Id"]
    none = ["", "0.000000", "0", "0"]
    assert rows == [
        ["Ada was here", "Who?", "Ada", "0.250000", "0", "3", "", "1"],
        ["", "Who?", *none, "Context is empty", "2"],
        [
            *("a", "b", *none),
            "5 fields, the header has 3 (put quotes around text with commas); left out: 'c', 'd'",
            "3",
        ],
        ["longer", "b", "longer", "0.250000", "0", "6", "", "4"],
    ]
    with pytest.raises(UserError, match="column 'Error' is reserved"):
        check_table(write(tmp_path, "Context,Question,error\na,b,c"), on_error="keep")


def test_cells_that_a_spreadsheet_would_compute(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "\nx", "＝1", "1-1", "a=b"]  # noqa: RUF001
    content = "Context,Question,=Id\n" + "".join(f'"{text}","a","{text}"\n' for text in texts)
    path = write(tmp_path, content)
    assert [row[-1] for row in answered(path)] == ["=Id", *texts]
    head, *rows = answered(path, escape_formulas=True)
    assert head[-1] == "'=Id"
    assert [row[0] for row in rows] == [row[-1] for row in rows]
    assert [row[0] for row in rows] == [*(f"'{text}" for text in texts[:-2]), *texts[-2:]]
    assert not any(cell.startswith(FORMULA_STARTS) for row in [head, *rows] for cell in row)


@pytest.mark.fault(
    "a failure in the middle of a table",
    sees="the next run goes on after them; the output is the same",
)
@pytest.mark.parametrize("finished", range(5))
def test_a_run_that_failed_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    monkeypatch.setattr(table, "CHUNK_ROWS", 2)
    content = "Context,Question,More\n" + "".join(f'"{i} é",Who?,"x\r{i}"\n' for i in range(9))
    path = write(tmp_path, content)
    whole = answer(path).read_bytes()
    seen: list[str] = []

    def noting(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
        for examples in chunks:
            seen.extend(example.id for example in examples)
            yield from first_word([examples])

    def failing(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
        yield from itertools.islice(noting(chunks), finished)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(path, failing)
    assert answer(path, noting).read_bytes() == whole
    assert seen == [str(i) for i in range(1, 10)]
    assert {file.name for file in tmp_path.iterdir()} == {"input.csv", "output.csv"}


@pytest.mark.fault("a table that somebody edits while it is answered")
def test_a_table_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "Context,Question\na,b\n")

    def changing(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
        for answers in first_word(chunks):
            path.write_text("Context,Question\na,b\nc,d\n")
            yield answers

    with pytest.raises(UserError, match="it changed while it was read"):
        answer(path, changing)
    assert not path.with_name("output.csv").exists()
    path.write_text("Context,Question\na,b\n")  # put back: what was answered counts for nothing
    assert answered(path) == [HEADER, ["a", "b", "a", *SCORED]]


@pytest.mark.fault("a folder, a pipe or nothing in `infer.input`")
def test_an_input_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; check infer\.input"):
        check_table(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="a folder; name a file"):
        check_table(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="not a regular file, but a device or a pipe"):
            check_table(path)
