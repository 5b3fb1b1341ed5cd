"""Parquet, with further columns of any type as they are.

Chunks wait as Arrow streams, one after the other, because a Parquet file is readable only when it
is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from os import SEEK_END
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bert_qa.errors import UserError, first_sentence
from bert_qa.spans import Answer
from bert_qa.tables.rows import (
    ERROR,
    READ,
    SCORE_DECIMALS,
    Encoded,
    Record,
    Row,
    our_names,
)

NAME = "Parquet"
SUFFIX = ".parquet"
JOINED = False

MAGIC = b"PAR1"
ROWS_READ = 1024
ROW_GROUP_ROWS = 65_536
"""Rows of a row group that is written, at least: readers open each by itself."""


def columns(file: BinaryIO, path: str, reserved: Sequence[str]) -> pa.Schema:
    """The schema, our columns spelt our way; see `bert_qa.tables.rows.Format`."""
    schema = _opened(file, path).schema_arrow.remove_metadata()
    names = our_names(path, schema.names, reserved)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: more than one column {twice}; rename one")
    schema = pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])
    for name in READ:
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{path}: column {name} is of type {kind}; make it text")
    return schema


def records(
    file: BinaryIO, path: str, columns: pa.Schema, position: int | None = None
) -> Iterator[Record]:
    """The rows; a position is a row's number from 0. See `bert_qa.tables.rows.Format`."""
    parquet = _opened(file, path)
    further = [name for name in columns.names if name not in READ]
    row = 0
    for group in range(parquet.num_row_groups):
        size = parquet.metadata.row_group(group).num_rows
        if position is not None and row + size <= position:
            row += size
            continue
        try:
            for batch in parquet.iter_batches(ROWS_READ, row_groups=[group]):
                named = batch.rename_columns(columns.names)
                contexts, questions = (named.column(name).to_pylist() for name in READ)
                rest = named.select(further)
                each = rest.nbytes // max(1, len(rest))
                for at, (context, question) in enumerate(zip(contexts, questions, strict=True)):
                    if position is None or row >= position:
                        size = len(context or "") + len(question or "") + each
                        yield Record(row, context, question, rest.slice(at, 1), size)
                    row += 1
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"{path}: row group {group}: {first_sentence(error)}") from None


def _opened(file: BinaryIO, path: str) -> pq.ParquetFile:
    file.seek(0)
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: no Parquet file that can be read ({first_sentence(error)}); write it again"
        ) from None


def encode(
    columns: pa.Schema,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    *,
    keep_errors: bool,
    first: bool,
    escape_formulas: bool,
) -> Encoded:
    """An Arrow stream of one batch; see `bert_qa.tables.rows.Format`."""
    scores = np.round([answer.score for answer in answers], SCORE_DECIMALS)
    written: dict[str, pa.Array] = {
        "Context": pa.array([row.context for row in rows], pa.string()),
        "Question": pa.array([row.question for row in rows], pa.string()),
        "Answer": pa.array([answer.text for answer in answers], pa.string()),
        "Score": pa.array(scores, pa.float64()),
        "Start": pa.array([answer.start for answer in answers], pa.int64()),
        "End": pa.array([answer.end for answer in answers], pa.int64()),
    }
    if keep_errors:
        written[ERROR] = pa.array([row.error for row in rows], pa.string())
    kept = pa.schema([field for field in columns if field.name not in READ])
    if kept.names:
        table = pa.Table.from_batches([row.further for row in rows], kept).combine_chunks()
        written |= dict(zip(kept.names, table.columns, strict=True))
    sink = pa.BufferOutputStream()
    content = pa.table(written)
    with pa.ipc.new_stream(sink, content.schema) as stream:
        stream.write_table(content)
    return Encoded(sink.getvalue().to_pybytes())


def join(chunks: Iterable[BinaryIO], output: BinaryIO) -> None:
    """Put chunks together as row groups; see `bert_qa.tables.rows.Format`."""
    writer: pq.ParquetWriter | None = None
    waiting: list[pa.Table] = []

    def write() -> None:
        nonlocal writer
        table = pa.concat_tables(waiting).unify_dictionaries()
        writer = writer or pq.ParquetWriter(output, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=max(1, len(table)))
        waiting.clear()

    for table in chain.from_iterable(map(_streams, chunks)):
        waiting.append(table)
        if sum(map(len, waiting)) >= ROW_GROUP_ROWS:
            write()
    if waiting:
        write()
    if writer is not None:
        writer.close()


def _streams(chunks: BinaryIO) -> Iterator[pa.Table]:
    end = chunks.seek(0, SEEK_END)
    chunks.seek(0)
    while chunks.tell() < end:
        yield pa.ipc.open_stream(chunks).read_all()
