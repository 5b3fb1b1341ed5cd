"""Commands that are disturbed: started, killed at a random moment, and what they said."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.soak.report import Report

TRACEBACK = "Traceback (most recent call last)"
PATIENCE = 1800
"""Seconds after which a command counts as stuck."""


class UndisturbedError(Exception):
    """A run that nobody disturbed did not go through, so that there is nothing to compare with."""


STRANGE: dict[str, dict[str, Any]] = {
    "umask 077": {"umask": 0o077},
    "a read-only home": {"env": {"HOME": "/proc/sys"}},  # where root cannot write either
    "no locale": {"env": {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}},
}
"""Surroundings that a command must not mind."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: None where it did not.
        said: standard output and error, together.
    """

    command: Sequence[str]
    status: int | None
    said: str

    @property
    def lines(self) -> list[str]:
        return re.split(r"[\r\n]+", self.said)

    @property
    def errors(self) -> list[str]:
        """The lines by which the project says what is wrong."""
        return [line for line in self.lines if line.startswith("error: ")]

    @property
    def clear(self) -> bool:
        """Whether it is said once what is wrong, by the project or, before a stage ran, by DVC."""
        if self.errors:
            return len(self.errors) == 1
        by_dvc = [line for line in self.lines if line.startswith("ERROR: ")]
        text = " ".join(by_dvc)
        return bool(by_dvc) and "failed to run" not in text and "unexpected error" not in text

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.command))}\nstatus {self.status}\n{self.said[-4000:]}"


class Running:
    """A command in a session of its own, with all the processes that it starts."""

    def __init__(self, command: Sequence[str], log: Path, **options: Any) -> None:
        self.command, self.log = command, log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )

    def members(self) -> list[psutil.Process]:
        """The processes of the session, also those whose parent is gone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) != self.process.pid:
                    continue
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """Wait for the command, and kill it if it takes longer."""
        status: int | None
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
            self.kill()
        return Ended(self.command, status, self.said())

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for_orphans(self) -> bool:
        """Wait for the processes that outlive the command; False if they do not end."""
        deadline = time.monotonic() + PATIENCE
        while self.members():
            if time.monotonic() > deadline:
                self.kill()
                return False
            time.sleep(0.1)
        return True

    def kill(self) -> None:
        """End all of the session."""
        while members := self.members():
            for process in members:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()


def _stages(running: Running) -> Iterator[psutil.Process]:
    for process in running.members():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(word.startswith("stages.") or "stages/" in word for word in words[1:3]):
                yield process


def _models(running: Running) -> Iterator[psutil.Process]:
    for process in running.members():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(process.cmdline()):
                yield process


def disturb(running: Running, draw: random.Random) -> str:
    """Send a random signal to some of a command's processes.

    Returns:
        What was done, in words; of the same kind the same words.
    """
    targets: dict[str, list[psutil.Process]] = {
        "a command": [psutil.Process(running.process.pid)],
        "a stage": list(_stages(running)),
        "a model's process": list(_models(running))[:1],
        "all": running.members(),
    }
    name = draw.choice([name for name, processes in targets.items() if processes])
    number = draw.choice([signal.SIGKILL, signal.SIGTERM])
    if name == "all" and draw.random() < 0.7:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGINT)
        return "Ctrl-C"
    for process in targets[name]:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    return f"{number.name} to {name}"


def wait_for_moment(
    running: Running, draw: random.Random, seconds: float, folder: Path, signs: Sequence[str]
) -> None:
    """Wait for a random moment within `seconds`, or soon after one of the files appears.

    Args:
        signs: patterns of files in the folder that show that something is half done.
    """
    begun = time.monotonic()
    until = begun + draw.uniform(0, seconds)
    sign = draw.choice(signs) if signs and draw.random() < 0.5 else None
    before = set(folder.glob(sign)) if sign else set()
    while time.monotonic() < until and running.process.poll() is None:
        if sign and set(folder.glob(sign)) - before:
            time.sleep(draw.uniform(0, 1))
            return
        time.sleep(0.02)


@dataclass
class Runner:
    """Starts commands in surroundings of all kinds and judges how they ended."""

    env: Mapping[str, str]
    logs: Path
    draw: random.Random
    report: Report
    started: list[Running] = field(default_factory=list)

    def start(
        self, command: Sequence[str | Path], folder: Path, *, strange: bool = False
    ) -> Running:
        """Start a command, in strange surroundings if they are asked for, now and then."""
        options: dict[str, Any] = {"cwd": folder, "env": dict(self.env)}
        if strange and self.draw.random() < 0.3:
            name = self.draw.choice(list(STRANGE))
            chosen = STRANGE[name]
            options["env"] |= chosen.get("env", {})
            if "umask" in chosen:
                options["umask"] = chosen["umask"]
            self.report.count("surroundings", name)
        log = self.logs / f"{len(self.started)}.log"
        running = Running([str(word) for word in command], log, **options)
        self.started.append(running)
        return running

    def end(self) -> None:
        """End what is still running, as after Ctrl-C."""
        for running in self.started:
            if running.process.poll() is None:
                running.kill()

    def run(self, command: Sequence[str | Path], folder: Path, *, strange: bool = False) -> Ended:
        """Run a command to its end."""
        return self.start(command, folder, strange=strange).wait()

    def judge(self, kind: str, ended: Ended, *, killed: bool = False) -> str:
        """Note a traceback, a command that is stuck, and a failure that is not one clear line.

        Args:
            killed: the command was disturbed, and so may end in any way that is quiet.

        Returns:
            How it ended, in a word or two.
        """
        if TRACEBACK in ended.said:
            self.report.fault("traceback", kind, str(ended))
        if ended.status is None:
            self.report.fault("stuck", kind, str(ended))
            return "stuck"
        if ended.status == 0:
            return "went through"
        if not ended.clear and not (killed and not ended.errors):
            self.report.fault("unclear", kind, str(ended))
            return "unclear"
        return "ended" if killed else "refused"
