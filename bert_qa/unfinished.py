"""Unfinished work: what a long run has done so far, kept until that run has finished.

A run is named after what it computes: parameters, inputs and code. Started again, it finds its
folder; with other inputs, parameters or code it gets another, and the former stays until it is
wanted again. Does not look into the folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel

from bert_qa.errors import UserError
from bert_qa.files import fingerprint, lock

UNFINISHED = Path(os.environ.get("DVC_ROOT", "")) / "models/checkpoints"
"""Outside every stage's outputs, because DVC removes those before it runs a stage; and of the
checkout that an experiment was started in, because DVC removes the experiment's own."""

DIGESTS = Path("digests")
"""What code each stage can reach: written by the stage `digest`, before any other stage runs."""


def code_of(stage: str) -> list[Path]:
    """Files that change when a stage computes something else.

    In a run of DVC that is the stage's digest, which stays for a comment. A script that somebody
    runs by hand may be newer than its digest: then it is all of the package.
    """
    if os.environ.get("DVC_STAGE"):
        return [DIGESTS / f"{stage}.json"]
    return sorted(Path(__file__).parent.rglob("*.py"))


@contextmanager
def unfinished(
    stage: str, params: Sequence[BaseModel], inputs: Sequence[Path], *, others: int
) -> Iterator[Path]:
    """Yield the folder of this run's unfinished work, which is removed when the block ends.

    An error or a kill leaves it.

    Args:
        inputs: files and folders.
        others: how many unfinished runs of the stage are kept beside this one, the last used.

    Raises:
        UserError: the same run is going on in another process.
    """
    folder = UNFINISHED / stage / fingerprint(params, [*code_of(stage), *inputs])
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = lock(folder, folder=True)
    if descriptor is None:
        raise UserError(f"{folder}: the same run is going on; wait for it, or end it")
    try:
        os.utime(folder)
        former = {path: _last_used(path) for path in unfinished_runs(stage) if path != folder}
        for path in sorted(former, key=lambda path: former[path], reverse=True)[others:]:
            remove_run(path)
        try:
            yield folder
        except BaseException:
            with suppress(OSError):
                folder.rmdir()  # nothing is in it yet
            raise
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _last_used(folder: Path) -> float:
    """When a run began last; 0 if another process has just removed it."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def unfinished_runs(stage: str = "*") -> list[Path]:
    """The folders of runs that have not finished, of one stage or of all."""
    return sorted(path for path in UNFINISHED.glob(f"{stage}/*") if path.is_dir())


def remove_run(folder: Path) -> bool:
    """Remove the folder of an unfinished run, unless it is going on."""
    descriptor = lock(folder, folder=True)
    if descriptor is None:
        return False
    try:
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)
    return True
