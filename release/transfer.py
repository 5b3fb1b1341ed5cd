"""Pushing to the remote and pulling from it, each in a process of its own.

DVC, adlfs and asyncio print a page for each file that fails, and adlfs tries hundreds of files
again for minutes when the remote is gone. A process can be silenced, and ended. It runs
`release.transfer_process`; what is sent and fetched is in `release.dvc_remote`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from dvc.repo import Repo

from bert_qa.errors import UserError
from release.dvc_remote import AGAIN, open_remote

SECONDS = 3
"""Between two looks at whether the remote answers."""

MISSES = 5
"""Unanswered looks, one after the other, after which the remote is taken for gone."""


def push(repo: Repo) -> int:
    """Push as `release.dvc_remote.push` does.

    Raises:
        UserError: as there, or the remote stopped answering.
    """
    return _apart(repo, "push")


def pull(repo: Repo, targets: Sequence[str] = ()) -> int:
    """Pull as `release.dvc_remote.pull` does; errors as in `push`."""
    return _apart(repo, "pull", targets)


def check_complete(repo: Repo) -> None:
    """Check as `release.dvc_remote.check_complete` does; errors as in `push`."""
    _apart(repo, "check")


def _apart(repo: Repo, command: str, targets: Sequence[str] = ()) -> int:
    """Run a command of `release.transfer_process`; end it when the remote answers no more.

    A blob is there whole or not at all: nothing is half-written.
    """
    parts = urlsplit(open_remote(repo).url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    proxied = bool(urllib.request.getproxies())  # a proxy answers for a host that is gone
    arguments = [sys.executable, "-m", "release.transfer_process", command, *targets]
    missed, doing = 0, "pull" if command == "pull" else "push"
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    missed = 0 if proxied or _answers(address) else missed + 1
                if missed == MISSES:
                    raise UserError(f"{doing} cut off: {address[0]} does not answer; {AGAIN}")
        except BaseException:
            process.kill()
            raise
    if process.returncode == 1:
        sys.exit(1)  # it has said why: a full disk, say
    if process.returncode:
        raise UserError(f"{doing} was killed (status {process.returncode}); {AGAIN}")
    result = json.loads(output.splitlines()[-1])
    if "error" in result:
        raise UserError(result["error"])
    return int(result["files"])


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True
