"""Windows in a file: the tokenized data set, with the tokens of each window's answer.

Written a chunk of examples at a time, read a window at a time. Knows the columns; how windows are
made is in `bert_qa.windows`, how files are mapped into memory in `bert_qa.arrow`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from bert_qa.arrow import Columns, Records, Rows, lists, write_columns
from bert_qa.errors import reading
from bert_qa.squad import Example
from bert_qa.windows import LabelledWindows, Window, WindowSet, label_windows

EXAMPLES = 1000
"""Tokenized at a time: enough for speed, and no more memory than that."""

PAD = "pad_token_id"
REMEDY = "run `dvc repro tokenize`"


def write_windows(
    path: Path,
    examples: Sequence[Example],
    tokenize: Callable[[Sequence[Example]], WindowSet],
    pad_token_id: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Tokenize examples into a file of labelled windows.

    Args:
        progress: called after every chunk with its number of examples.
    """

    def chunks() -> Iterator[Columns]:
        for first in range(0, len(examples), EXAMPLES):
            some = examples[first : first + EXAMPLES]
            yield _columns(label_windows(tokenize(some), some), some, first)
            if progress is not None:
                progress(len(some))

    write_columns(path, chunks(), {PAD: str(pad_token_id)})


def _columns(labelled: LabelledWindows, examples: Sequence[Example], first: int) -> Columns:
    windows = labelled.windows
    columns = {
        "example": pa.array([first + window.example for window in windows], pa.int32()),
        "id": pa.array([examples[window.example].id for window in windows], pa.string()),
        "input_ids": lists([window.input_ids for window in windows], pa.int32()),
        "starts": lists([window.starts for window in windows], pa.int32()),
        "ends": lists([window.ends for window in windows], pa.int32()),
        "reads": lists([window.reads for window in windows], pa.int32()),
        "start_position": pa.array(labelled.starts),
        "end_position": pa.array(labelled.ends),
    }
    token_types = [w.token_type_ids for w in windows if w.token_type_ids is not None]
    return columns | ({"token_type_ids": lists(token_types, pa.uint8())} if token_types else {})


def read_windows(path: Path) -> LabelledWindows:
    """Open a file that `write_windows` wrote.

    Raises:
        UserError: it is not there, or is not whole.
    """
    rows = Rows(path, REMEDY)
    with reading(path, REMEDY):
        return LabelledWindows(
            WindowSet(_windows(rows), int(rows.metadata[PAD]), rows.lengths("input_ids").tolist()),
            rows.numbers("start_position"),
            rows.numbers("end_position"),
        )


def _windows(rows: Rows) -> Sequence[Window]:
    examples, typed = rows.numbers("example"), "token_type_ids" in rows

    def window(row: int) -> Window:
        first, last = rows.list_at("reads", row).tolist()
        return Window(
            example=int(examples[row]),
            input_ids=rows.list_at("input_ids", row),
            token_type_ids=rows.list_at("token_type_ids", row) if typed else None,
            starts=rows.list_at("starts", row),
            ends=rows.list_at("ends", row),
            reads=(first, last),
        )

    return Records(rows, window)
