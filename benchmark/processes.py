"""A contender in a process of its own: its start, its answers' seconds, its memory.

Other libraries' ways to answer run on the releases of them that still have them, in an environment
of their own (`make peers`). Imports nothing of what a contender needs: a process that answers holds
its own libraries only.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmark.contenders import CONTENDERS, Answering, Setting
from bert_qa.errors import UserError

PEERS = Path(sys.prefix).with_name(".venv-peers") / "bin/python"
"""The interpreter of the peers' environment, beside this one's."""


class Worker:
    """A contender in a process of its own, until the end of a `with`.

    Attributes:
        peak_mb: the most memory that it and its own processes have held, each by itself, in MB.

    Raises:
        UserError: it is a peer, and there is no environment of peers.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        self._name = name
        self._process, self._connection = _start(peers=CONTENDERS[name].peer)
        self._connection.send((load, (name, setting)))
        self.peak_mb = 0.0

    def ask(self, method: str, *arguments: Any) -> float:
        """Call a method of the contender; the seconds that it took.

        Raises:
            UserError: the contender failed: its libraries do not take the model, say.
        """
        try:
            self._connection.send((method, arguments))
            seconds, self.peak_mb = self._connection.recv()
        except (EOFError, OSError):
            if self._process.wait() == -signal.SIGKILL:
                raise UserError(f"{self._name}: ended by SIGKILL; memory may be short") from None
            raise UserError(f"{self._name}: cannot answer here; its message is above") from None
        return float(seconds)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._connection.close()
        self._process.wait()


def in_peers(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a process of the peers' environment; what it returns.

    Raises:
        UserError: there is no such environment, or the function failed.
    """
    process, connection = _start(peers=True)
    try:
        connection.send((function, arguments))
        connection.send(None)  # to be sent what it returned
        return connection.recv()
    except (EOFError, OSError):
        raise UserError(f"{PEERS}: {function.__name__} failed; its message is above") from None
    finally:
        connection.close()
        process.wait()


def load(name: str, setting: Setting) -> Answering:
    """Load a contender, in its process."""
    return CONTENDERS[name].load(setting)


def start_seconds(name: str, setting: Setting, question: str, context: str) -> float:
    """Seconds from nothing to a contender's first answer, its caches filled by an earlier start."""
    seconds = 0.0
    for _ in range(2):
        before = time.perf_counter()
        with Worker(name, setting) as worker:
            worker.ask("answer", question, context)
            seconds = time.perf_counter() - before
    return seconds


def _start(*, peers: bool) -> tuple[subprocess.Popen[bytes], Connection]:
    if peers and not PEERS.exists():
        raise UserError(f"{PEERS}: no environment of peers; run `make peers`")
    ours, theirs = multiprocessing.Pipe()
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(  # noqa: S603
        [PEERS if peers else sys.executable, "-m", "benchmark.processes", str(theirs.fileno())],
        env=os.environ | {"PYTHONPATH": root},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()  # so that the end of the process ends the connection
    return process, ours


def _serve(connection: Connection) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    function, arguments = connection.recv()
    loaded = function(*arguments)
    with contextlib.suppress(EOFError):  # the end of the work
        while True:
            if (task := connection.recv()) is None:
                connection.send(loaded)
                continue
            method, arguments = task
            before = time.perf_counter()
            getattr(loaded, method)(*arguments)
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


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
