"""Where tables lie: paths of this machine, and URLs of Azure Storage by fsspec.

Finds files, opens them and writes them whole. What is in them is for others to know.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from bert_qa.errors import UserError, first_sentence
from bert_qa.files import same_file, whole_file

SCHEMES = ("abfs", "abfss", "az")
CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
SAS_TOKEN = "AZURE_STORAGE_SAS_TOKEN"  # noqa: S105  the variable's name
ACCOUNTS = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")

BLOCK_BYTES, BUFFER_BYTES = 4 << 20, 1 << 18
"""What a request to Azure Storage fetches, and what a line is looked for in."""

State = tuple[Any, ...]
"""What changes with the content of a file."""

_PATTERN = re.compile(r"[*?\[]")


def is_url(location: str) -> bool:
    """Whether a location is a URL and no path."""
    return "://" in location


def find_files(location: str) -> dict[str, str] | None:
    """The files of a folder or of a pattern.

    Files whose names begin with `.` or `_` are left out, as Spark and Ray leave them out.

    Args:
        location: with `*`, `?` or `[...]` as a shell has them, and `**` for folders in folders.

    Returns:
        Locations by the names that they have below the folder, in their order; None for a location
        that is one file, there or not.

    Raises:
        UserError: nothing is there, or storage refuses.
    """
    if is_url(location):
        system, path = _system(location)
        with _explained(location):
            if _PATTERN.search(path):
                root, infos = _root(path), list(system.glob(path, detail=True).values())
            elif system.isdir(path):
                root, infos = path, system.ls(path, detail=True, refresh=True)
            else:
                return None
        found = [_located(location, info["name"]) for info in infos if info["type"] == "file"]
        root = _located(location, root)
    elif os.path.lexists(location) and not os.path.isdir(location):
        return None
    elif os.path.isdir(location):
        root, found = location, [entry.path for entry in os.scandir(location) if entry.is_file()]
    elif _PATTERN.search(location):
        root, names = _root(location), glob.glob(location, recursive=True)
        found = [name for name in names if os.path.isfile(name)]
    else:
        return None
    below = {file.removeprefix(root).lstrip("/"): file for file in sorted(found)}
    named = {
        name: file
        for name, file in below.items()
        if not any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
    }
    if not named:
        raise UserError(f"{location}: no files there; check infer.input")
    return named


def _located(location: str, path: str) -> str:
    """A path of storage, which begins with the container, as the URL `location` is spelt.

    That may name the account beside the container.
    """
    scheme, _, rest = location.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{path.partition('/')[2]}"


def _root(pattern: str) -> str:
    """The folder that a pattern looks in."""
    fixed = pattern[: cast("re.Match[str]", _PATTERN.search(pattern)).start()]
    return fixed[: fixed.rfind("/") + 1]


@contextmanager
def open_file(location: str) -> Iterator[BinaryIO]:
    """Open a file to read.

    Raises:
        UserError: it is not there, is not a file, or storage refuses.
    """
    if not is_url(location):
        with Path(location).open("rb") as file:
            yield file
        return
    system, path = _system(location)
    with _explained(location):
        file = system.open(path, "rb", block_size=BLOCK_BYTES)
    with file, io.BufferedReader(file, BUFFER_BYTES) as buffered:
        yield buffered


def state_of(location: str) -> State:
    """What changes with the content of a file.

    Raises:
        UserError: as `open_file`.
    """
    if is_url(location):
        system, path = _system(location)
        with _explained(location):
            found = system.info(path, refresh=True)
        if found["type"] != "file":
            raise UserError(f"{location}: a folder; name a file")
        return found["size"], str(found.get("etag")), str(found.get("last_modified"))
    file = Path(location)
    if file.is_dir():
        raise UserError(f"{file}: a folder; name a file in infer.input")
    if not file.exists():
        raise UserError(f"{file}: no such file; check infer.input")
    if not file.is_file():
        raise UserError(
            f"{file}: not a regular file, but a device or a pipe, which cannot be read twice;"
            " save the table to a file"
        )
    status = file.stat()
    return status.st_size, status.st_mtime_ns  # which are the same on all machines that share it


def write_file(location: str, content: bytes) -> None:
    """Write a file, which appears whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    if not is_url(location):
        with whole_file(Path(location)) as partial:
            partial.write_bytes(content)
        return
    system, path = _system(location)
    with _explained(location, "write"):
        system.pipe_file(path, content)  # one request, or blocks that are listed at the end


@contextmanager
def writing(location: str) -> Iterator[BinaryIO]:
    """Open a file to write, which appears when the block has ended.

    Raises:
        UserError: it cannot be written.
    """
    if not is_url(location):
        with whole_file(Path(location)) as partial, partial.open("wb") as file:
            yield file
        return
    system, path = _system(location)
    with _explained(location, "write"):
        file = system.open(path, "wb")
        try:
            yield file
        except BaseException:
            file.closed = True  # or it would be committed when it is collected
            raise
        file.close()


def files_below(location: str, prefix: str = "") -> dict[str, int]:
    """The sizes of all files below a folder, by their names there; none if there is no folder.

    Args:
        prefix: of the names.
    """
    if not is_url(location):
        root = Path(location)
        return {
            str(file.relative_to(root)): file.stat().st_size
            for file in root.rglob(f"{prefix}*")
            if file.is_file()
        }
    system, path = _system(location)
    with _explained(location):
        system.invalidate_cache(path)
        try:
            found = system.find(path, detail=True, prefix=prefix)
        except FileNotFoundError:
            return {}
    if not isinstance(found, dict):  # what adlfs gives for a file
        raise UserError(f"{location}: a file, where a folder is written; name another")
    return {
        name.removeprefix(path).lstrip("/"): int(info["size"] or 0) for name, info in found.items()
    }


def remove_files(location: str, names: Iterable[str]) -> None:
    """Remove files below a folder of Azure Storage, where they are there."""
    system, path = _system(location)
    with _explained(location, "delete"):
        for name in names:
            with suppress(FileNotFoundError):
                system.rm_file(f"{path.rstrip('/')}/{name}")
        system.invalidate_cache()


def same_place(one: str, other: str) -> bool:
    """Whether two locations are one, however they are spelt."""
    if is_url(one) and is_url(other):
        return bool(_system(one)[1] == _system(other)[1])
    return not is_url(one) and not is_url(other) and same_file(one, other)


def _system(location: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path in it.

    Raises:
        UserError: the URL is of another storage, or there are no credentials.
    """
    scheme = location.partition("://")[0]
    if scheme not in SCHEMES:
        raise UserError(f"{location}: found {scheme}://; give a path, or abfs://container/path")
    try:
        import fsspec
        from adlfs import AzureBlobFileSystem
    except ModuleNotFoundError:
        raise UserError(
            f"{location}: Azure Storage needs adlfs: pip install 'bert-qa[tables]'"
        ) from None
    with _explained(location):
        system = fsspec.filesystem(scheme, **_credentials(location))
        return system, AzureBlobFileSystem._strip_protocol(location)


def _credentials(location: str) -> dict[str, Any]:
    """What opens the account: see `release.container.open_container`, whose order this is.

    A managed identity and `az login` are among what `DefaultAzureCredential` tries.
    """
    found = re.search(r"@([a-z0-9]{3,24})\.(?:dfs|blob)\.", location)
    if whole := os.environ.get(CONNECTION_STRING):
        theirs = re.search(r"(?:^|;)AccountName=([^;]+)", whole)
        if found and theirs and theirs[1] != found[1]:
            raise UserError(
                f"{location}: {CONNECTION_STRING} is of the account {theirs[1]}; give the one, or"
                " unset the other"
            )
        return {"connection_string": whole}
    account = found[1] if found else next(filter(None, map(os.environ.get, ACCOUNTS)), None)
    if account is None:
        raise UserError(
            f"{location}: no storage account: set {CONNECTION_STRING} or {ACCOUNTS[0]} in the"
            " environment, or name it: abfs://container@account.dfs.core.windows.net/path"
        )
    if token := os.environ.get(SAS_TOKEN):
        return {"account_name": account, "sas_token": token}
    return {"account_name": account, "anon": False}


@contextmanager
def _explained(location: str, doing: str = "read") -> Iterator[None]:
    """Turn what Azure's libraries raise inside the block into one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{location}: no such file or container; check its name") from None
    except Exception as error:
        said = _azure_error(error)
        if said is None:
            raise
        raise UserError(f"{location}: could not {doing} it: {said}") from None


def _azure_error(error: BaseException | None) -> str | None:
    """What an error of Azure's libraries says, which adlfs may have wrapped; None for others."""
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
    )

    wrapped = error
    while error is not None and not isinstance(error, AzureError):
        error = error.__cause__ or error.__context__
    refused = isinstance(error, HttpResponseError) and error.status_code in {401, 403}
    if refused or isinstance(error, ClientAuthenticationError):
        return (
            "the credentials are not accepted, or may not do it; see `make remote`, and ask for the"
            " role Storage Blob Data Contributor"
        )
    if isinstance(error, ServiceRequestError):
        return "storage does not answer; check the account's name, the network and its firewall"
    if error is not None:
        return first_sentence(cast("Exception", error))
    if isinstance(wrapped, ValueError | PermissionError):  # of adlfs itself
        return first_sentence(wrapped)
    return None
