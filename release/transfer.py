"""Pushing to the remote and pulling from it, each in a process of its own.

DVC, adlfs and asyncio print a page for each file that fails, and adlfs tries hundreds of files
again for minutes when the remote is gone. A process can be silenced and ended.
`release.dvc_remote` knows what is sent and fetched.

python -m release.transfer push|check|pull [TARGET ...]     prints {"files": 3} or {"error": "..."}
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import logging
import socket
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Sequence
from urllib.parse import urlsplit

from dvc.repo import Repo

from bert_qa.errors import UserError, run
from release import dvc_remote
from release.dvc_remote import AGAIN, open_remote, open_repo

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
    """Run this module as a script, and end it when the remote does not answer any more.

    A blob is there whole or not at all: nothing is half-written.
    """
    parts = urlsplit(open_remote(repo).url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    proxied = bool(urllib.request.getproxies())  # a proxy answers for a host that is gone
    arguments = [sys.executable, "-m", "release.transfer", command, *targets]
    missed = 0
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    missed = 0 if proxied or _answers(address) else missed + 1
                if missed == MISSES:
                    raise UserError(f"{command} cut off: {address[0]} does not answer; {AGAIN}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}; its message is above")
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


def main() -> None:
    """Transfer in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["push", "pull", "check"])
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # DVC's and Azure's page for each file that did not arrive
    warnings.simplefilter("ignore", RuntimeWarning)  # adlfs's, of coroutines that a failure left
    sys.unraisablehook = lambda _: None  # the same, where Python has no way to warn of them
    result: dict[str, int | str] = {"files": 0}
    try:
        with open_repo() as repo:
            if arguments.command == "push":
                result = {"files": dvc_remote.push(repo)}
            elif arguments.command == "pull":
                result = {"files": dvc_remote.pull(repo, arguments.targets)}
            else:
                dvc_remote.check_complete(repo)
    except UserError as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
