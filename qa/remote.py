"""The DVC repository and pushing to its remote, and what to say when that breaks off.

As `dvc push --run-cache`, but a push that is cut off ends at once and in one line. What arrived
stays; the same command again sends the rest. Knows nothing of releases.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import urllib.request
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from azure.storage.blob import ContainerClient
from dvc.exceptions import DvcException, UploadError
from dvc.repo import Repo
from dvc_objects.fs.errors import AuthError

from qa.errors import UserError, first_sentence
from qa.storage import one_line, open_container

REMOTE = "azure"
"""Its name in .dvc/config."""

AGAIN = "what arrived stays; run the same command again"
MISSES = 5
"""Unanswered calls, three seconds apart, after which the remote is taken for gone."""


@contextmanager
def open_repo() -> Iterator[Repo]:
    """DVC's repository of this folder.

    Raises:
        UserError: there is none, or DVC gives up on something inside the block.
    """
    try:
        with Repo() as repo:
            yield repo
    except (DvcException, AuthError) as error:
        raise UserError(f"dvc: {first_sentence(error)}") from None


def open_remote(repo: Repo) -> ContainerClient:
    """A client of the container that the remote is in; errors as in `qa.storage.open_container`."""
    remote = repo.config["remote"][REMOTE]
    container = remote["url"].removeprefix("azure://").partition("/")[0]
    return open_container(remote.get("account_name"), container)


def push(repo: Repo) -> int:
    """Push what the workspace's stages made, and the run cache, to the remote.

    Ends the whole process, with a line and status 1, when the remote stops answering.

    Returns:
        How many files of outputs were not there yet.

    Raises:
        UserError: no credentials, no permission, or not all files arrived.
    """
    with _one_line(repo, "write to"):
        # Apart: it sends all of it each time, and counts it as new.
        repo.stage_cache.push(REMOTE)
        return int(repo.push(remote=REMOTE))


def check_complete(repo: Repo) -> None:
    """Fail when the remote lacks an output that dvc.lock names.

    DVC pushes what there is, and says in a log alone what is neither here nor there: outputs of
    stages that have not run in this clone, say. A folder's list of files arrives after the files.

    Raises:
        UserError: it does, or it cannot be asked.
    """
    with _one_line(repo, "read from"):
        remote = repo.cloud.get_remote_odb(REMOTE)
        absent = [
            str(output)
            for output in repo.index.outs
            if output.use_cache and output.hash_info and not remote.exists(output.hash_info.value)
        ]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"not in the remote: {absent[0]}{more}; run `dvc repro`, then `make push`")


@contextmanager
def _one_line(repo: Repo, doing: str) -> Iterator[None]:
    """Turn what DVC and Azure Storage say inside the block into one line that says what to do."""
    logging.disable(logging.CRITICAL)  # DVC's and Azure's page for each file that did not arrive
    warnings.simplefilter("ignore", RuntimeWarning)  # adlfs's of what it left when it failed
    sys.unraisablehook = _unraisable
    client = open_remote(repo)
    with _watched(client.url), one_line(client, doing):
        try:
            yield
        except UploadError as error:
            raise UserError(
                f"push cut off: {error.amount} files did not arrive; {AGAIN}, after `make remote`"
            ) from None
        except DvcException as error:
            raise UserError(f"push: {first_sentence(error)}; check with `make remote`") from None


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Python's hook, but for coroutines that were never awaited: those are ignored, as above.

    Python warns of one wherever it happens to be freed, and has no `__import__` to do so with
    inside a namedtuple, which it then tells here.
    """
    if not isinstance(what.object, Coroutine):
        sys.__unraisablehook__(what)


@contextmanager
def _watched(url: str) -> Iterator[None]:
    """End the process when the remote does not answer any more.

    adlfs tries each of hundreds of files again for more than a minute, and takes no setting for it.
    A blob is there whole or not at all, so that nothing is half-written.
    """
    done = threading.Event()
    if not urllib.request.getproxies():  # a proxy answers for a host that is gone
        threading.Thread(target=_watch, args=(url, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(url: str, done: threading.Event) -> None:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    missed = 0
    while missed < MISSES:
        if done.wait(3):
            return
        try:
            socket.create_connection(address, timeout=5).close()
            missed = 0
        except OSError:
            missed += 1
    if not done.is_set():
        print(f"\nerror: push cut off: {address[0]} does not answer; {AGAIN}", file=sys.stderr)
        os._exit(1)
