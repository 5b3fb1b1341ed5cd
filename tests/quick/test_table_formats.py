"""Parquet and JSON Lines as CSV: the same rows, columns of any type as they are, from any place."""

from __future__ import annotations

import datetime
import decimal
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from bert_qa.errors import UserError
from bert_qa.files import resumable_file
from bert_qa.journal import Journal
from bert_qa.spans import Answer
from bert_qa.squad import Example
from bert_qa.tables import table as tables
from bert_qa.tables.parts import Notes, join_parts, output_in_parts, plan, read_note, write_part
from bert_qa.tables.table import (
    answer_table,
    answered_chunks,
    check_table,
    read_chunks,
    waiting_file,
)


def first_word(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
    """A stand-in for the engine, which these tests are not about."""
    for examples in chunks:
        words = [example.context.split()[0] for example in examples]
        yield [Answer(word, 0.25, 0, len(word)) for word in words]


def answer(path: Path, answer_chunks: Any = first_word, **checks: Any) -> Path:
    output = path.with_name(f"output{path.suffix}")
    with resumable_file(output) as unfinished:
        table = check_table(path, **checks)
        with Journal(waiting_file(table, unfinished), "test") as journal:
            answer_table(table, unfinished, journal, answer_chunks)
    return output


def write_lines(path: Path, *lines: Any) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def test_json_lines_keep_their_further_keys(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "input.jsonl",
        {"id": 7, "question": "Who?", "CONTEXT": "Ada was here", "tags": ["a", {"b": None}]},
        "",
        {"Context": "Émile", "Question": "Who?", "half": "\ud800"},
    )
    rows = [json.loads(line) for line in answer(path).read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {
            **{"Context": "Ada was here", "Question": "Who?", "Answer": "Ada"},
            **{"Score": 0.25, "Start": 0, "End": 3, "id": 7, "tags": ["a", {"b": None}]},
        },
        {
            **{"Context": "Émile", "Question": "Who?", "Answer": "Émile"},
            **{"Score": 0.25, "Start": 0, "End": 5, "half": "\ud800"},
        },
    ]
    assert [*rows[0]][:6] == ["Context", "Question", "Answer", "Score", "Start", "End"]


@pytest.mark.fault("JSON Lines with {lines}")
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"Context": "a", "Question": "b"'], "line 1: not JSON"),
        (['{"Context": "a", "Question": "b"}', "[1]"], "line 2: .*, not an object"),
        (['{"Context": "a"}'], "row 1: Question is empty; fix or drop it"),
        (['{"Context": 5, "Question": "b"}'], "row 1: Context is 5, not text"),
        (['{"Context": null, "Question": "b"}'], "row 1: Context is empty"),
        (['{"Context": "a", "context": "a", "Question": "b"}'], "row 1: more than one Context"),
        (['{"Context": "a", "Question": "b", "answer": 1}'], "row 1: 'Answer' is reserved"),
        (['{"Context": "a\\ud800", "Question": "b"}'], "row 1: Context is no Unicode text"),
        (['{"Context": "a\\u0000b", "Question": "b"}'], "row 1: a NUL character in it"),
        (['{"Context": "a", "Question": "b", "x": 1, "x": 2}'], "row 1: a key stands in it twice"),
        (['{"Context": "a", "Question": "b", "x": 1e400}'], "line 1: .* 1e400 is out of range"),
        (['{"Context": "a", "Question": ' + "1" * 5000 + "}"], "line 1: not JSON that can be"),
    ],
)
def test_a_mistake_in_json_lines_is_named(tmp_path: Path, lines: list[str], says: str) -> None:
    path = write_lines(tmp_path / "input.jsonl", *lines)
    with pytest.raises(UserError, match=says) as error:
        check_table(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def test_parquet_keeps_the_types_of_its_columns(tmp_path: Path) -> None:
    further: dict[str, pa.Array] = {
        "when": pa.array([datetime.datetime(2026, 1, 1), None], pa.timestamp("ns", "UTC")),
        "price": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(9, 2)),
        "deep": pa.array([[{"a": 1}], None], pa.list_(pa.struct({"a": pa.int8()}))),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "raw": pa.array([b"\0\xff", b""], pa.large_binary()),
    }
    path = parquet(
        tmp_path / "input.parquet",
        id=pa.array([1, 2], pa.uint16()),
        question=pa.array(["Who?", "Where?"], pa.large_string()),
        Context=pa.array(["Ada was here", "London it was"]).dictionary_encode(),
        **further,
    )
    found = pq.read_table(answer(path))
    assert found.column_names == [
        *("Context", "Question", "Answer", "Score", "Start", "End", "id"),
        *further,
    ]
    assert found.column("Answer").to_pylist() == ["Ada", "London"]
    assert found.column("id").type == pa.uint16()
    for name, column in further.items():
        assert found.column(name).type == column.type
        assert found.column(name).to_pylist() == column.to_pylist()


@pytest.mark.fault("Parquet with {columns}")
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"Question": ["b"]}, "no column Context in the header Question"),
        ({"Question": ["b"], "Context": [1]}, "column Context is of type int64; make it text"),
        ({"Question": ["b"], "Context": ["a"], "score": [1]}, "column 'Score' is reserved"),
        ({"Question": ["b", None], "Context": ["a", "b"]}, "row 2: Question is empty"),
    ],
)
def test_a_mistake_in_parquet_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        check_table(parquet(tmp_path / "input.parquet", **columns))


@pytest.mark.fault("a Parquet file that is cut off")
def test_a_parquet_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "input.parquet", Question=["b"] * 99, Context=["a"] * 99)
    for content in (path.read_bytes()[:-9], b"PAR1\x15\x04"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"input\.parquet: no Parquet file that can be read"):
            check_table(path)


@pytest.mark.fault(
    "rows of Parquet or JSON Lines that cannot be answered, with `infer.on_error=keep`",
    sees="an empty answer and the reason in the column Error",
)
def test_rows_that_cannot_be_answered_are_kept(tmp_path: Path) -> None:
    lines = [
        {"Context": "Ada", "Question": "Who?"},
        {"Context": None, "Question": "b", "x": 1},
        {"Context": 5, "Question": "Who?"},
    ]
    path = write_lines(tmp_path / "input.jsonl", *lines)
    assert check_table(path, on_error="keep").bad == 2
    rows = [json.loads(line) for line in answer(path, on_error="keep").read_text().splitlines()]
    assert [row["Error"] for row in rows] == [None, "Context is empty", "Context is 5, not text"]
    assert [(row["Answer"], row["Context"]) for row in rows[1:]] == [("", ""), ("", "")]
    path = parquet(tmp_path / "input.parquet", Context=["Ada", None], Question=["b", "c"])
    found = pq.read_table(answer(path, on_error="keep"))
    assert found.column("Error").to_pylist() == [None, "Context is empty"]


def test_no_rows_of_any_format_give_none(tmp_path: Path) -> None:
    empty = pa.array([], pa.string())
    found = pq.read_table(answer(parquet(tmp_path / "a.parquet", Context=empty, Question=empty)))
    assert len(found) == 0
    assert found.column_names[:3] == ["Context", "Question", "Answer"]


def make(folder: Path, suffix: str, rows: Sequence[tuple[str, str]]) -> Path:
    """One table in a format."""
    path = folder / f"input.{suffix}"
    if suffix == "parquet":
        contexts, questions = zip(*rows, strict=True)
        return parquet(path, Context=contexts, Question=questions, n=list(range(len(rows))))
    if suffix == "jsonl":
        dicts = ({"Context": c, "Question": q, "n": n} for n, (c, q) in enumerate(rows))
        return write_lines(path, *dicts)
    import csv

    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, quoting=csv.QUOTE_ALL)
        writer.writerow(["Context", "Question", "n"])
        writer.writerows((c, q, n) for n, (c, q) in enumerate(rows))
    return path


SUFFIXES = ["csv", "jsonl", "parquet"]
ROWS = [(f"w{i} é\r\n{i}", "Who?\r" if i % 3 else "Who, why?") for i in range(11)]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("finished", [0, 1, 3, 5])
def test_a_run_that_failed_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, finished: int
) -> None:
    monkeypatch.setattr(tables, "CHUNK_ROWS", 2)
    path = make(tmp_path, suffix, ROWS)
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
    assert seen == [str(i) for i in range(1, 12)]


text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
).filter(lambda text: any(letter.isprintable() and not letter.isspace() for letter in text))


@given(
    rows=st.lists(st.tuples(text, text), min_size=1, max_size=9),
    size=st.integers(1, 4),
    suffix=st.sampled_from(SUFFIXES),
)
def test_a_chunk_read_by_itself_is_that_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    size: int,
    suffix: str,
) -> None:
    path = make(tmp_path_factory.mktemp("chunks"), suffix, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CHUNK_ROWS", size)
        table = check_table(path)
    whole = [row for chunk in read_chunks(table) for row in chunk]
    assert [(row.context, row.question) for row in whole] == rows
    assert [row.number for row in whole] == [*range(1, len(rows) + 1)]
    apart = [
        row
        for at in range(len(table.chunks))
        for chunk in read_chunks(table.part(at, at + 1))
        for row in chunk
    ]
    assert apart == whole


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts_put_together_are_the_file_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(tables, "CHUNK_ROWS", 2)
    path = make(tmp_path, suffix, ROWS)
    whole = answer(path).read_bytes()
    table = check_table(path)
    output = tmp_path / f"joined.{suffix}"
    parts = plan({path.name: table}, folder=False)
    assert len(parts) == 6
    with output_in_parts(str(output), folder=False) as (place, target):
        notes = Notes(place, "test", parts)
        assert not notes.done
        for part in reversed(parts):  # whichever ends first
            assert read_note(notes.place, part) is None
            written = write_part(
                notes.place, part, answered_chunks([(part.table, part.begins)], first_word)
            )
            assert read_note(notes.place, part) == written
        assert sorted(Notes(place, "test", parts).done) == [part.number for part in parts]
        join_parts(notes.place, parts, target)
    assert output.read_bytes() == whole
    assert {file.name for file in tmp_path.iterdir()} == {
        path.name,
        f"output{path.suffix}",
        output.name,
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_part_of_a_folder_is_a_file_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(tables, "CHUNK_ROWS", 4)
    table = check_table(make(tmp_path, suffix, ROWS))
    parts = plan({f"deep/input.{suffix}": table}, folder=True)
    assert [part.name for part in parts] == [f"deep/input-{i:05}.{suffix}" for i in range(3)]
    with output_in_parts(str(tmp_path / "out"), folder=True) as (place, _):
        notes = Notes(place, "test", parts)
        for part in parts:
            write_part(notes.place, part, answered_chunks([(part.table, part.begins)], first_word))
    assert not list((tmp_path / "out").glob("_*"))
    contexts: list[str] = []
    for part in parts:
        file = tmp_path / "out" / part.name
        # The answers are a table of questions again, once its columns have other names.
        with pytest.raises(UserError, match="reserved"):
            check_table(file)
        if suffix == "parquet":
            contexts += pq.read_table(file).column("Context").to_pylist()
        elif suffix == "jsonl":
            contexts += [json.loads(line)["Context"] for line in file.open(encoding="utf-8")]
        else:
            import csv

            with file.open(encoding="utf-8", newline="") as lines:
                contexts += [row["Context"] for row in csv.DictReader(lines)]
    assert contexts == [context for context, _ in ROWS]


def test_notes_of_another_run_or_of_spoilt_parts_count_for_nothing(tmp_path: Path) -> None:
    table = check_table(make(tmp_path, "csv", ROWS))
    parts = plan({"input.csv": table, "other.csv": table}, folder=True)
    folder = tmp_path / "out"
    folder.mkdir()
    place = Notes(str(folder), "one", parts).place
    for part in parts:
        write_part(place, part, answered_chunks([(part.table, part.begins)], first_word))
    (folder / "other.csv").write_bytes(b"cut")
    notes = Notes(str(folder), "one", parts)
    assert (notes.outdated, [*notes.done]) == (False, [0])
    assert read_note(notes.place, parts[1]) is None  # nor would an actor believe it
    notes = Notes(str(folder), "two", parts)
    assert (notes.outdated, notes.done) == (True, {})
    assert [file.name for file in folder.iterdir()] == ["_unfinished"]


@pytest.mark.fault("two files of a folder whose answers would have one name")
def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    table = check_table(make(tmp_path, "csv", ROWS))
    with pytest.raises(UserError, match=r"two files would be answered into a\.csv; rename one"):
        plan({"a.csv": table, "a.txt": table}, folder=True)


def test_large_parquet_has_large_row_groups(tmp_path: Path) -> None:
    from bert_qa.tables import parquet as module

    streams = io.BytesIO()
    for _ in range(40):
        chunk = pa.table({"n": list(range(2048))})
        with pa.ipc.new_stream(streams, chunk.schema) as stream:
            stream.write_table(chunk)
    streams.seek(0)
    with (tmp_path / "x.parquet").open("wb") as output:
        module.join([streams], output)
    groups = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert (groups.num_rows, groups.num_row_groups) == (40 * 2048, 2)
