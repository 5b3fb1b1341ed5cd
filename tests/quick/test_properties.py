"""What holds for any text, any table, any lengths and any logits: searched for by hypothesis."""

from __future__ import annotations

import csv
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bert_qa.batches import BATCH_TOKENS, make_batches
from bert_qa.files import resumable_file
from bert_qa.journal import Journal
from bert_qa.logits import Logits
from bert_qa.spans import Answer, best_answers
from bert_qa.squad import Example, Span
from bert_qa.tables import table as tables
from bert_qa.tables.rows import WRITTEN
from bert_qa.tables.table import answer_table, check_table
from bert_qa.windows import Window, make_windows, padded_length

# Any text that UTF-8 has, with more of what CSV, tokenizers and spreadsheets take for special.
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    "a \"',;\n\r\t=-+@\u200b\ufeffé日", max_size=12
)
QUESTIONS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
WORDS = st.lists(
    st.text("abcdefgh.,-'éß日本\U0001f600 ", min_size=1, max_size=12), min_size=1, max_size=80
).map(" ".join)


def cut(chunks: Iterable[Sequence[Example]]) -> Iterator[list[Answer]]:
    """Answers that are some part of each context, in the engine's place."""
    for examples in chunks:
        parts = [(len(e.question) % (len(e.context) + 1), len(e.context)) for e in examples]
        yield [
            Answer(example.context[start:end], 0.5, start, end)
            for example, (start, end) in zip(examples, parts, strict=True)
        ]


def is_blank(row: Sequence[str]) -> bool:
    return not any(field.strip() for field in row)


@st.composite
def rows_of_one_width(draw: st.DrawFn) -> list[list[str]]:
    width = draw(st.integers(2, 4))
    return draw(st.lists(st.lists(TEXT, min_size=width, max_size=width), max_size=8))


@given(
    rows=rows_of_one_width(),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    chunk_rows=st.integers(1, 4),
)
def test_a_table_comes_back_with_its_rows_its_order_and_its_further_columns(
    rows: list[list[str]], quoting: Any, line_end: str, chunk_rows: int
) -> None:
    header = ["Context", "Question", "more", ""][: len(rows[0]) if rows else 2]
    with tempfile.TemporaryDirectory() as name, mock.patch.object(tables, "CHUNK_ROWS", chunk_rows):
        path, output = Path(name, "in.csv"), Path(name, "out.csv")
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, quoting=quoting, lineterminator=line_end)
            writer.writerows([header, *rows])
        with path.open(encoding="utf-8", newline="") as lines:
            # Unquoted, a lone carriage return ends a row: what counts is what Python reads.
            _, *given_rows = csv.reader(lines, strict=True)
        with resumable_file(output) as unfinished:
            table = check_table(path, on_error="keep")
            with Journal(unfinished, "") as journal:
                answer_table(table, unfinished, journal, cut)
        with output.open(encoding="utf-8", newline="") as lines:
            head, *found = csv.reader(lines, strict=True)
    assert head == [*header[:2], *WRITTEN, "Error", *header[2:]]
    # Rows of nothing but white space are no rows: spreadsheets leave them below a table.
    expected = [row + [""] * (len(header) - len(row)) for row in given_rows if not is_blank(row)]
    assert [[*row[:2], *row[7:]] for row in found] == expected
    for context, _, answer, _, start, end, error, *_ in found:
        assert answer == context[int(start) : int(end)]
        assert not (error and answer)
    assert sum(bool(row[6]) for row in found) == table.bad


@given(lengths=st.lists(st.integers(1, 600), max_size=400))
def test_batches_hold_each_window_once_and_no_more_than_they_may(lengths: list[int]) -> None:
    batches = list(make_batches(lengths))
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch.indices)
        assert longest <= batch.length <= padded_length(max(lengths))
        assert len(batch.indices) == 1 or len(batch.indices) * batch.length <= max(BATCH_TOKENS)


@given(question=QUESTIONS, context=WORDS | TEXT, sizes=st.integers(24, 80), share=st.floats(0, 0.9))
def test_windows_cover_all_that_has_a_token(
    tokenizer: Any, question: str, context: str, sizes: int, share: float
) -> None:
    room = sizes - 8 - tokenizer.backend.num_special_tokens_to_add(True)
    windows = make_windows(
        [Example("", question, context)],
        tokenizer,
        max_length=sizes,
        doc_stride=int(share * (room - 1)),
        max_question_length=8,
    )
    tokenizer.backend.no_truncation()
    whole = tokenizer.backend.encode(context, add_special_tokens=False)
    covered = {
        character
        for window in windows
        for start, end in zip(window.starts.tolist(), window.ends.tolist(), strict=True)
        for character in range(start, end)
    }
    assert {c for start, end in whole.offsets for c in range(start, end)} <= covered
    for window in windows:
        assert len(window) <= sizes
        inside = window.starts >= 0
        assert (window.ends[inside] > window.starts[inside]).all()
        assert (window.ends[inside] <= len(context)).all()
        assert (np.diff(window.starts[inside]) >= 0).all()
    for array in windows.pad().values():
        assert array.shape == (len(windows), padded_length(max(map(len, windows))))


@given(context=WORDS, data=st.data())
def test_locate_inverts_windows(tokenizer: Any, context: str, data: st.DataObject) -> None:
    windows = make_windows(
        [Example("", "Who?", context)],
        tokenizer,
        max_length=48,
        doc_stride=16,
        max_question_length=8,
    )
    window = data.draw(st.sampled_from(windows))
    inside = np.flatnonzero(window.starts >= 0)
    if not len(inside):
        return
    first, last = sorted(
        (data.draw(st.sampled_from(inside.tolist())), data.draw(st.sampled_from(inside.tolist())))
    )
    start, end = int(window.starts[first]), int(window.ends[last])
    one, two = window.locate(Span(context[start:end], start))
    assert (window.starts[one], window.ends[two]) == (start, end)
    assert window.starts[one - 1] < start
    assert two + 1 == len(window) or window.ends[two + 1] > end or window.ends[two + 1] < 0
    outside = Span("x", int(window.ends[inside[-1]]))
    assert window.locate(outside) == (0, 0)


VALUES = st.integers(-3, 3).map(float) | st.floats(-30, 30, width=32)


@given(data=st.data(), most=st.integers(1, 6))
def test_the_best_span_is_the_best_of_all(data: st.DataObject, most: int) -> None:
    windows, logits = [], []
    at = 0
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(0, 7))
        places = np.arange(at, at + count, dtype=np.int32)
        outside = np.array([-1, -1], dtype=np.int32)
        starts = np.concatenate([outside, places, outside[:1]])
        ends = np.concatenate([outside, places + 1, outside[:1]])
        read = (0, int(ends.max(initial=0)))
        windows.append(Window(0, [1] * len(starts), None, starts, ends, read))
        drawn = [
            np.array(data.draw(st.lists(VALUES, min_size=len(starts), max_size=len(starts))))
            for _ in range(2)
        ]
        logits.append(Logits(*(values.astype(np.float32) for values in drawn)))
        at += max(0, count - 2)  # windows overlap
    context = "x" * (at + 10)
    answer = best_answers(
        [context],
        windows,
        logits,
        max_answer_length=most,
        version_2_with_negative=False,
        null_score_diff_threshold=0.0,
    )[0]
    scores = all_spans(windows, logits, most)
    if not scores:
        assert answer == Answer("", 0.0, 0, 0)
        return
    best = max(score for score, _ in scores)
    assert (answer.start, answer.end) in {span for score, span in scores if score >= best - 1e-9}
    assert answer.text == context[answer.start : answer.end]
    assert 0 <= answer.score <= 1 + 1e-9


def all_spans(
    windows: list[Window], logits: list[Logits], most: int
) -> list[tuple[float, tuple[int, int]]]:
    return [
        (float(logit.start[i]) + float(logit.end[j]), (int(w.starts[i]), int(w.ends[j])))
        for w, logit in zip(windows, logits, strict=True)
        for i, j in itertools.product(range(len(w)), repeat=2)
        if w.starts[i] >= 0 and w.starts[j] >= 0 and i <= j < i + most
    ]
