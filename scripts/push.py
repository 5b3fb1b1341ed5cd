"""Push outputs and the run cache to the DVC remote: `make push`.

As `dvc push --run-cache`, but a push that is cut off says so at once and in one line. What arrived
stays; the same command again sends the rest.
"""

import logging
import os
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dvc.exceptions import DvcException, UploadError
from dvc.repo import Repo

from qa.errors import UserError, first_sentence, run
from qa.storage import open_container

AGAIN = "what arrived stays; run the same command again"
MISSES = 5
"""Unanswered calls, three seconds apart, after which the remote is taken for gone."""


def main() -> None:
    logging.disable(logging.CRITICAL)  # DVC's and Azure's page for each file that did not arrive
    with Repo() as repo:
        remote = repo.config["remote"]["azure"]
        container = remote["url"].removeprefix("azure://").partition("/")[0]
        client = open_container(remote.get("account_name"), container)
        if not urllib.request.getproxies():  # a proxy answers for a host that is gone
            threading.Thread(target=_watch, args=(client.url,), daemon=True).start()
        try:
            pushed = repo.push(run_cache=True)
        except UploadError as error:
            raise UserError(
                f"push cut off: {error.amount} files did not arrive; {AGAIN}, after `make remote`"
            ) from None
        except DvcException as error:
            raise UserError(f"push: {first_sentence(error)}; check with `make remote`") from None
    print(f"{pushed} files pushed" if pushed else "everything is in the remote")


def _watch(url: str) -> None:
    """End the process when the remote does not answer any more.

    adlfs tries each of hundreds of files again for more than a minute, and takes no setting for it.
    A blob is there whole or not at all, so that nothing is half-written.
    """
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    missed = 0
    while missed < MISSES:
        time.sleep(3)
        try:
            socket.create_connection(address, timeout=5).close()
            missed = 0
        except OSError:
            missed += 1
    print(f"\nerror: push cut off: {address[0]} does not answer; {AGAIN}", file=sys.stderr)
    os._exit(1)


if __name__ == "__main__":
    run(main)
