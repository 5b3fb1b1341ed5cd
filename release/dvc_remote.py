"""The DVC repository, pushing to its remote and pulling, and what to say when that breaks off.

As `dvc push --run-cache` and `dvc pull --run-cache`, but what is cut off is told in one line. What
arrived stays; the same command again sends or fetches the rest. `release.transfer` runs it in a
process that can be ended. Knows nothing of releases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from azure.storage.blob import ContainerClient
from dvc.exceptions import CheckoutError, DownloadError, DvcException, UploadError
from dvc.lock import LockError
from dvc.repo import Repo
from dvc_objects.fs.errors import AuthError

from bert_qa.errors import UserError, first_sentence
from release.container import one_line, open_container

REMOTE = "azure"
"""Its name in .dvc/config."""

AGAIN = "what arrived stays; run the same command again"


@contextmanager
def open_repo() -> Iterator[Repo]:
    """DVC's repository of this folder.

    Raises:
        UserError: there is none, another command holds its lock, or DVC gives up on something
            inside the block.
    """
    try:
        with Repo() as repo:
            try:
                yield repo
            except LockError:
                raise UserError(
                    f"this clone is busy: {_lock_holder(Path(repo.tmp_dir))}; wait until it has"
                    " ended, or use another clone (docs/experiments.md)"
                ) from None
    except (DvcException, AuthError) as error:
        raise UserError(f"dvc: {first_sentence(error)}") from None


def _lock_holder(folder: Path) -> str:
    """Who holds DVC's lock, as `dvc exp run --run-all` does for hours: it writes its process id."""
    try:
        number = int((folder / "lock").read_text(encoding="utf-8"))
        command = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError):
        return "another dvc command runs in it"
    words = [Path(word).name for word in command.split("\0")[:2]] + command.split("\0")[2:]
    return f"process {number} ({' '.join(words).strip()}) holds its lock"


def open_remote(repo: Repo) -> ContainerClient:
    """A client of the remote's container; errors as in `release.container.open_container`."""
    remote = repo.config["remote"][REMOTE]
    container = remote["url"].removeprefix("azure://").partition("/")[0]
    return open_container(remote.get("account_name"), container)


def push(repo: Repo) -> int:
    """Push what the workspace's stages made, and the run cache, to the remote.

    Returns:
        How many files of outputs were not there yet.

    Raises:
        UserError: no credentials, no permission, or not all files arrived.
    """
    with _one_line(repo, "push", "write to"):
        # Apart: it sends all of it each time, and counts it as new.
        repo.stage_cache.push(REMOTE)
        pushed = int(repo.push(remote=REMOTE))
        # What DVC itself leaves out. Metrics that git holds are in DVC's cache for the run cache,
        # which without them restores no stage on a machine that has no dvc.lock of it.
        uncached = {
            output.hash_info
            for output in repo.index.outs
            if not output.use_cache
            and output.hash_info
            and output.cache.exists(output.hash_info.value)
        }
        failed = repo.cloud.push(uncached, remote=REMOTE).failed
        if failed:
            raise UploadError(len(failed))
        return pushed


def pull(repo: Repo, targets: Sequence[str] = ()) -> int:
    """Fetch what the remote has of the workspace's outputs, and the run cache.

    Args:
        targets: outputs or stages; none for all, with the run cache.

    Returns:
        How many files were not here yet.

    Raises:
        UserError: no credentials, no permission, not all files arrived, or the remote lacks some.
    """
    with _one_line(repo, "pull", "read from"):
        # First as Azure's own client asks: DVC reads nothing where it may not, and says so nowhere.
        next(iter(open_remote(repo).list_blobs(results_per_page=1)), None)
        if not targets:
            repo.stage_cache.pull(REMOTE)
        fetched = int(repo.fetch(list(targets) or None, remote=REMOTE))
    try:
        repo.checkout(list(targets) or None)
    except CheckoutError as error:
        raise UserError(
            f"not in the remote: {_and_more(sorted(map(str, error.target_infos)))}; `dvc repro`"
            " makes it, or `make push` where it was made"
        ) from None
    except LockError:
        raise
    except DvcException as error:
        # Files that are in no cache, say. They are fetched: `dvc checkout` names them all.
        raise UserError(
            f"pull: {first_sentence(error)}; `dvc checkout` says which, `dvc checkout --force`"
            " takes what was fetched in their place"
        ) from None
    return fetched


def check_complete(repo: Repo) -> None:
    """Fail when the remote lacks an output that dvc.lock names.

    DVC pushes what is in the cache and only logs outputs that are in neither cache nor remote: of
    stages that have not run in this clone, say. A folder's list of files arrives after the files.

    Raises:
        UserError: it does, or it cannot be asked.
    """
    with _one_line(repo, "push", "read from"):
        remote = repo.cloud.get_remote_odb(REMOTE)
        absent = [
            str(output)
            for output in repo.index.outs
            if output.use_cache and output.hash_info and not remote.exists(output.hash_info.value)
        ]
    if absent:
        raise UserError(
            f"not in the remote: {_and_more(absent)}; run `dvc repro`, then `make push`"
        )


def _and_more(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@contextmanager
def _one_line(repo: Repo, command: str, doing: str) -> Iterator[None]:
    """Turn what DVC and Azure Storage say inside the block into one line that says what to do.

    Args:
        command: push or pull, for the message.
        doing: as in `release.container.one_line`.
    """
    client = open_remote(repo)
    with one_line(client, doing):
        try:
            yield
        except (UploadError, DownloadError) as error:
            raise UserError(
                f"{command} cut off: {error.amount} files did not arrive; {AGAIN}, after"
                " `make remote`"
            ) from None
        except LockError:
            raise
        except DvcException as error:
            raise UserError(
                f"{command}: {first_sentence(error)}; check with `make remote`"
            ) from None
