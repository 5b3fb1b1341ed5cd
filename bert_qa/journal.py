"""What is finished of a table that is not: kept beside its unfinished output, for the next run.

Two things: how much of the output is written, and the logits of each batch since. Batches are
recognized by their arrays, so that a run that is continued computes the same batches and the
output is the same, byte for byte. Knows nothing of CSV and nothing of what the logits mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_qa.logits import Forward

FILE = "journal.sqlite"

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""SQLite's codes of a file that is not whole, not of it, or has other tables than ours."""


@dataclass(frozen=True)
class Progress:
    """How much of a table is in its output.

    Attributes:
        chunks, rows: of the input, answered and written.
        written: bytes of the output.
        formulas: cells of it that a spreadsheet would compute.
    """

    chunks: int = 0
    rows: int = 0
    written: int = 0
    formulas: int = 0


class Journal:
    """The journal of one table, in a folder that this process holds.

    SQLite keeps it whole through a kill at any point. It is safe to use from several threads.

    Attributes:
        progress: where the run goes on from; none at first.
        outdated: whether the folder held the work of another run, now removed.
    """

    def __init__(self, output: Path, identity: str) -> None:
        """Open the journal beside an unfinished output, or begin one.

        Args:
            output: need not be there.
            identity: names the input, the model and all else that the answers depend on. What was
                journaled under another is removed.
        """
        self._file = output.with_name(FILE)
        self._lock = threading.Lock()
        self.outdated = False
        try:
            self.progress = self._open(identity)
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            if isinstance(error, sqlite3.Error) and error.sqlite_errorcode not in DAMAGED:
                with self._explained():
                    raise
            self._database.close()
            for file in output.parent.glob(f"{FILE}*"):
                file.unlink()
            self.outdated = True
            with self._explained():
                self.progress = self._open(identity)
        if self.progress.written > (output.stat().st_size if output.is_file() else 0):
            self.outdated = True  # a machine that lost power kept the journal and not the output
            self.advance(Progress())

    def _open(self, identity: str) -> Progress:
        self._database = sqlite3.connect(self._file, check_same_thread=False, isolation_level=None)
        # One process has it: no shared memory, which network file systems lack.
        self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        if self._database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise ValueError("damaged")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS run (one INTEGER PRIMARY KEY, identity TEXT, progress TEXT)"
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS batch"
            " (key BLOB PRIMARY KEY, chunks INTEGER, rows INTEGER, start BLOB, end BLOB, hash BLOB)"
        )
        found = self._database.execute("SELECT identity, progress FROM run").fetchone()
        if found is None:
            begun = Progress()
            self._database.execute(
                "INSERT INTO run VALUES (1, ?, ?)", (identity, json.dumps(asdict(begun)))
            )
            return begun
        if found[0] != identity:
            raise ValueError("of another run")
        return Progress(**json.loads(found[1]))

    def remember(self, forward: Forward) -> Forward:
        """`forward`, except that the logits of a batch that is in the journal come from there."""

        def remembered(
            batch: dict[str, NDArray[np.int64]],
        ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            key = _key(batch)
            with self._lock, self._explained():
                found = self._database.execute(
                    "SELECT rows, start, end, hash FROM batch WHERE key = ?", (key,)
                ).fetchone()
            if found is not None and found[-1] == _hash(found[1] + found[2]):
                rows, *both, _ = found
                start, end = (np.frombuffer(a, dtype=np.float32).reshape(rows, -1) for a in both)
                return start, end
            start, end = forward(batch)
            both = [start.tobytes(), end.tobytes()]
            with self._lock, self._explained():
                self._database.execute(
                    "INSERT OR REPLACE INTO batch VALUES (?, ?, ?, ?, ?, ?)",
                    (key, self.progress.chunks, len(start), *both, _hash(b"".join(both))),
                )
            return start, end

        return remembered

    def advance(self, progress: Progress) -> None:
        """Note that the output has one chunk more, and forget the logits that led to it.

        A chunk's batches run while the chunk before is the last to be written, or the one before
        it, and are kept as long.
        """
        with self._lock, self._explained(), self._transaction():
            self._database.execute("DELETE FROM batch WHERE chunks < ?", (progress.chunks - 1,))
            self._database.execute("UPDATE run SET progress = ?", (json.dumps(asdict(progress)),))
            self.progress = progress

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as those of the operating system: a full disk, a broken one."""
        try:
            yield
        except sqlite3.Error as error:
            number = errno.ENOSPC if "full" in str(error) else errno.EIO
            raise OSError(number, f"{os.strerror(number)} ({error})", str(self._file)) from None


def _key(batch: dict[str, NDArray[np.int64]]) -> bytes:
    named = (f"{name} {array.shape}".encode() + array.tobytes() for name, array in batch.items())
    return _hash(b"".join(named))


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
