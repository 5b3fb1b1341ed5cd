"""A contender in a process of its own: its start, its answers' seconds, its memory.

Imports nothing of what a contender needs: a process that answers holds its own libraries only.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import time
import warnings
from pathlib import Path
from typing import Any

from qa.contenders import CONTENDERS, Setting


class Worker:
    """A contender in a process of its own, until the end of a `with`.

    Attributes:
        peak_mb: the most memory that it and its own processes have held, each by itself, in MB.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, setting))
        self._process.start()
        theirs.close()  # so that the end of the process ends the connection
        self.peak_mb = 0.0

    def ask(self, method: str, *arguments: Any) -> float:
        """Call a method of the contender; the seconds that it took."""
        try:
            self._connection.send((method, arguments))
            seconds, self.peak_mb = self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError("a contender died; its message is above") from None
        return float(seconds)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        with contextlib.suppress(OSError):  # it may have ended already
            self._connection.send(None)
        self._process.join()


def start_seconds(name: str, setting: Setting, question: str, context: str) -> float:
    """Seconds from nothing to a contender's first answer, its caches filled by an earlier start."""
    seconds = 0.0
    for _ in range(2):
        before = time.perf_counter()
        with Worker(name, setting) as worker:
            worker.ask("answer", question, context)
            seconds = time.perf_counter() - before
    return seconds


def _serve(connection: Any, name: str, setting: Setting) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    contender = CONTENDERS[name](setting)
    while (task := connection.recv()) is not None:
        method, arguments = task
        before = time.perf_counter()
        getattr(contender, method)(*arguments)
        connection.send((time.perf_counter() - before, _peak_mb()))


def _peak_mb() -> float:
    """The most memory this process has held, and those that it started.

    Not getrusage's figure, which a process inherits from the one that started it.
    """
    kib = 0
    for process in ("self", *(child.pid for child in multiprocessing.active_children())):
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
        kib += int(
            next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        )
    return kib * 1024 / 1e6
