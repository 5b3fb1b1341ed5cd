"""Arrow files: written a record batch at a time, mapped into memory and read row by row.

A file of any size takes the memory of the rows in use. pyarrow writes the same columns as the same
bytes. Knows nothing of what the columns mean.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bert_qa.errors import reading
from bert_qa.files import whole_file

Columns = Mapping[str, pa.Array]

Record = TypeVar("Record")


def lists(rows: Sequence[Sequence[int] | NDArray[Any]], kind: pa.DataType) -> pa.Array:
    """A column of lists of numbers, one list a row.

    Args:
        kind: of the numbers.
    """
    offsets = np.fromiter(accumulate(map(len, rows), initial=0), np.int32, len(rows) + 1)
    values = np.concatenate(rows) if rows else np.empty(0)
    numbers = pa.array(values.astype(kind.to_pandas_dtype()))
    return pa.ListArray.from_arrays(pa.array(offsets), numbers)


def write_columns(
    path: Path, chunks: Iterable[Columns], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file, of each chunk of columns a record batch; the first decides what columns."""
    with whole_file(path) as partial, pa.OSFile(str(partial), "wb") as sink:
        writer: pa.RecordBatchFileWriter | None = None
        for columns in chunks:
            batch = pa.record_batch(dict(columns)).replace_schema_metadata(metadata)
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
        writer = writer or pa.ipc.new_file(sink, pa.schema([], metadata))
        writer.close()


class Rows:
    """A file that `write_columns` wrote.

    Attributes:
        metadata: as it was given.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        """Map a file into memory.

        Args:
            remedy: what makes it anew, for the error.

        Raises:
            UserError: it is not there, or is not whole.
        """
        with reading(path, remedy):
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in self._batches:
                batch.validate(full=True)
        pairs = (reader.schema.metadata or {}).items()
        self.metadata = {key.decode(): value.decode() for key, value in pairs}
        self._firsts = list(accumulate((len(batch) for batch in self._batches), initial=0))
        self._lists = [
            {
                name: (column.offsets.to_numpy(), column.values.to_numpy())
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
                if pa.types.is_list(column.type)
            }
            for batch in self._batches
        ]

    def __len__(self) -> int:
        return self._firsts[-1]

    def __contains__(self, name: str) -> bool:
        return bool(self._batches) and name in self._batches[0].schema.names

    def numbers(self, name: str) -> NDArray[Any]:
        """A column of numbers, whole."""
        parts = [batch.column(name).to_numpy() for batch in self._batches]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def lengths(self, name: str) -> NDArray[np.int32]:
        """How long each list of a column is."""
        parts = [np.diff(columns[name][0]) for columns in self._lists]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def list_at(self, name: str, row: int) -> NDArray[Any]:
        """One list of a column, as it lies in the file.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        batch = bisect_right(self._firsts, row) - 1
        offsets, values = self._lists[batch][name]
        at = row - self._firsts[batch]
        part: NDArray[Any] = values[offsets[at] : offsets[at + 1]]
        return part


class Records(Sequence[Record]):
    """What the rows of a file stand for, each made when it is asked for.

    Args:
        rows: the file.
        make: a row's number to its record.
    """

    def __init__(self, rows: Rows, make: Callable[[int], Record]) -> None:
        self._rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self._make(row) for row in range(len(self))[index]]
        return self._make(index + len(self) if index < 0 else index)
