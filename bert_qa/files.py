"""Files and folders that appear whole or not at all, and the hashes that name their bytes.

Everything is written beside its destination, under a name that one run at a time may hold, and
renamed onto it at the end: a reader never meets half an output, two runs never mix theirs, and a
run that fails or is killed leaves the previous output as it was.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bert_qa.errors import UserError

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})
"""What a file system without locks answers, as some network shares."""

WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What writing a file gives, and reading one does not."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it onto `path` unless the block raises.

    Raises:
        UserError: `path` cannot be written, is no regular file, or another run is writing it.
    """
    path = _regular(path)
    with _held(path, folder=False) as partial:
        yield partial
        os.replace(partial, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes the place of `path` unless the block raises.

    Raises:
        UserError: `path` cannot be written, is no folder, or another run is writing it.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: a file, where a folder is written; move it away")
    with _held(path, folder=True) as partial:
        empty_folder(partial)
        yield partial
        _replace_folder(partial, path)


@contextmanager
def resumable_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to that survives a failure, for the next run to go on from.

    It lies in a folder of its own beside `path`, which may hold what the next run needs to know.
    When the block ends, the file is renamed onto `path` and the folder removed.

    Raises:
        UserError: as in `whole_file`.
    """
    path = _regular(path)
    with _held(path, folder=True, keep=True) as partial:
        yield partial / path.name
        os.replace(partial / path.name, path)
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def resumable_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to write to that survives a failure, for the next run to go on from.

    When the block ends it is renamed to `path`.

    Args:
        replace: whether it may take the place of a folder with files.

    Raises:
        UserError: as in `whole_file`, or `path` is a folder that it cannot take the place of.
    """
    named, path = path, Path(os.path.realpath(path))
    if Path.cwd().is_relative_to(path) or os.path.ismount(path):
        raise UserError(f"{named}: a folder that cannot be replaced; name a new one in it")
    if path.exists() and not path.is_dir():
        raise UserError(f"{named}: a file, where a folder is written; name a folder")
    if path.is_dir() and any(path.iterdir()) and not replace:
        raise UserError(f"{named}: not an empty folder; name a new one, or remove it")
    with _held(path, folder=True, keep=True) as partial:
        yield partial
        _replace_folder(partial, path)


def _regular(path: Path) -> Path:
    """The file that `path` stands for, itself or by a link."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_dir():
        raise UserError(f"{path}: a folder, where a file is written; name a file")
    if target.exists() and not target.is_file():
        raise UserError(f"{path}: not a regular file, but a device or a pipe; name a file")
    if target != path and target.exists() and not target.stat().st_mode & 0o222:
        # DVC links write-protected files of its cache into the workspace, if it is set up so.
        raise UserError(f"{path}: a link to a write-protected file; remove the link")
    return target


@contextmanager
def _held(path: Path, *, folder: bool, keep: bool = False) -> Iterator[Path]:
    """Make and hold the place beside `path` where it is written.

    The lock ends with the process. A failure removes the place, unless there is work in it to
    `keep`.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = lock(partial, folder=folder)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    if descriptor is None:
        raise UserError(f"{path}: another run is writing it; wait for it, or end it")
    try:
        _restore(path)
        yield partial
    except BaseException as error:
        explained = _about_disk(error, path)  # while the disk is still full
        if folder and not keep:
            shutil.rmtree(partial, ignore_errors=True)
        elif not keep:
            partial.unlink(missing_ok=True)
        else:
            with suppress(OSError):
                partial.rmdir()  # nothing is in it yet
        if explained is None:
            raise
        raise explained from None
    finally:
        os.close(descriptor)


def lock(partial: Path, *, folder: bool) -> int | None:
    """Make a file or folder and lock it until its descriptor is closed.

    Returns:
        The descriptor; None where another process holds the lock.
    """
    while True:
        if folder:
            if partial.is_file():  # of a version of this project that had another kind here
                partial.unlink()
            partial.mkdir(exist_ok=True)
        elif partial.is_dir():
            shutil.rmtree(partial)
        flags = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT
        with ExitStack() as stack:
            descriptor = os.open(partial, flags, 0o666)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), partial.stat()):
                    stack.pop_all()
                    return descriptor
            # Its holder renamed or removed it meanwhile: try again.


def empty_folder(folder: Path) -> None:
    """Remove all that a folder holds, but not the folder, which may be locked."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _replace_folder(partial: Path, path: Path) -> None:
    """Put `partial` in the place of `path`, in one step where the file system can."""
    if not path.exists():
        os.replace(partial, path)
        return
    former = lock(path, folder=True)  # the former bears the name of `partial` until it is removed
    try:
        _exchange(partial, path)
        shutil.rmtree(partial)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
        # Network shares cannot. A kill between these two lines leaves the former for `_restore`.
        os.replace(path, _former(path))
        os.replace(partial, path)
        shutil.rmtree(_former(path), ignore_errors=True)
    finally:
        if former is not None:
            os.close(former)


def _former(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def _restore(path: Path) -> None:
    """Put back the folder that a kill in `_replace_folder` left under its other name."""
    if _former(path).exists():
        if path.exists():
            shutil.rmtree(_former(path))
        else:
            os.replace(_former(path), path)


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step: renameat2(2) of Linux, which Python does not offer."""
    at_fdcwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_fdcwd, bytes(one), at_fdcwd, bytes(other), rename_exchange):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _about_disk(error: BaseException, path: Path) -> OSError | None:
    """The error to raise in place of one that says nothing of a file, or hides a full disk.

    Writing gives no file name; libraries that write with code of their own raise errors of theirs.
    """
    if isinstance(error, OSError):
        named = error.filename is not None or error.errno is None
        return None if named else _naming(int(error.errno or 0), path)
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    text = str(error)
    if (found := re.search(r"\(os error (\d+)\)", text)) is not None:  # of code in Rust
        return _naming(int(found[1]), path)
    if not os.statvfs(path.parent).f_bavail:
        return _naming(errno.ENOSPC, path)
    for number in WRITE_ERRORS:
        if os.strerror(number) in text:
            return _naming(number, path)
    if "inline_container.cc" in text:  # of torch.save, which does not tell what stopped it
        return _naming(errno.EIO, path)
    return None


def _naming(number: int, path: Path) -> OSError:
    """An error of the operating system that names the file which is being written."""
    said = os.strerror(number)
    if number in WRITE_ERRORS:
        return OSError(number, said, str(path))
    return OSError(number, f"{said} (while {path} was being written)")


def check_output(output: Path, key: str) -> None:
    """Refuse an output that DVC would refuse after the work, or whose content would be lost.

    Args:
        key: the parameter that names it, for the message.

    Raises:
        UserError: git tracks the file, it belongs to git or DVC, or, in a run of DVC, it lies
            outside the project.
    """
    place = Path(os.path.realpath(output))  # resolve() fails on a loop of links
    # From here: an experiment's copy of the project itself lies in a folder of DVC.
    if {".git", ".dvc"} & set(Path(os.path.relpath(place)).parts):
        raise UserError(f"{key}: {output} is in a folder of git or DVC; name another file")
    root = os.environ.get("DVC_ROOT")
    if root is not None and not place.is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{key}: {output} is outside the project, where DVC tracks nothing; name a file inside"
        )
    try:
        tracked = subprocess.run(  # noqa: S603
            ["git", "ls-files", "--error-unmatch", "--", place.name],  # noqa: S607
            cwd=place.parent,
            capture_output=True,
            check=False,
        )
    except OSError:  # no git here, or no folder: no file that it could track
        return
    if tracked.returncode == 0:
        raise UserError(
            f"{key}: git tracks {output}, which the answers would replace; name another file"
        )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, UTF-8, two spaces of indent, keys in the order given."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(params: Sequence[BaseModel], inputs: Sequence[Path]) -> str:
    """Name work after its parameters and the bytes of its inputs.

    Args:
        inputs: files and folders.
    """
    digest = hashlib.sha256()
    for section in params:
        digest.update(section.model_dump_json().encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.name.encode())
                digest.update(hash_file(file).encode())
    return digest.hexdigest()[:16]


def same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file, there or not, however they are spelt or linked."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
