"""The Hugging Face Hub: models and data sets at a pinned commit.

Safetensors only, no remote code, and no revision that can move. Whatever goes wrong on the way
reaches the user as one line. The server is `HF_ENDPOINT`, as for every Hugging Face library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from datasets import load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bert_qa.errors import UserError
from bert_qa.squad import Example, Fault, examples_from_records

TIMEOUT_S = 20.0
UNREACHABLE = (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.HTTPError, httpx.InvalidURL)


def download_model(name: str, revision: str | None, is_needed: Callable[[str], bool]) -> Path:
    """Download a model's files into the cache of the hub's client, unless they are there.

    A download that breaks off goes on from there the next time.

    Args:
        name: id on the hub.
        revision: the commit, 40 hexadecimal digits.
        is_needed: whether to download a file of this name.

    Returns:
        The folder of the files.

    Raises:
        UserError: the hub cannot be reached, or has no such model, revision or safetensors.
    """
    info = _pinned(HfApi().model_info, "model", name, revision)
    files = [file.rfilename for file in info.siblings or [] if is_needed(file.rfilename)]
    if not any(file.endswith(".safetensors") for file in files):
        raise UserError(
            f"params.yaml: model.name: {name} has no model.safetensors at {revision};"
            " only safetensors are loaded: convert it, or name another revision"
        )
    folder = _reported(
        "model",
        name,
        lambda: snapshot_download(
            name, revision=revision, allow_patterns=files, etag_timeout=TIMEOUT_S
        ),
        found=True,
    )
    return Path(folder)


def download_dataset(
    name: str, revision: str | None, dropped: Mapping[str, list[Fault]] | None = None
) -> dict[str, list[Example]]:
    """Download the `train` and `validation` splits of a SQuAD-shaped data set.

    Args:
        name: id on the hub.
        revision: the commit, 40 hexadecimal digits.
        dropped: by split, as in `bert_qa.squad.read_questions`.

    Raises:
        UserError: the hub cannot be reached, has no such data set, revision or splits, or a record
            is bad.
    """
    _pinned(HfApi().dataset_info, "dataset", name, revision)
    splits = _reported(
        "dataset",
        name,
        lambda: load_dataset(name, revision=revision, trust_remote_code=False),
        found=True,
    )
    for split in ("train", "validation"):
        if split not in splits:
            raise UserError(
                f"params.yaml: dataset.name: {name} has the splits {', '.join(splits)};"
                " train and validation are needed"
            )
    return {
        split: examples_from_records(
            splits[split], f"{name}, split {split}", dropped[split] if dropped else None
        )
        for split in ("train", "validation")
    }


def _pinned(lookup: Callable[..., Any], section: str, name: str, revision: str | None) -> Any:
    """The hub's record of a repository at a revision, which must be a commit."""
    info = _reported(
        section, name, lambda: lookup(name, revision=revision, timeout=TIMEOUT_S), revision
    )
    if info.sha != revision:
        raise UserError(
            f"params.yaml: {section}.revision: found {revision!r}, which can move;"
            f" pin the commit: {info.sha}"
        )
    return info


def _reported(
    section: str,
    name: str,
    call: Callable[[], Any],
    revision: str | None = None,
    *,
    found: bool = False,
) -> Any:
    """Run a call to the hub and word what went wrong.

    Args:
        found: whether the hub was reached before, and has what is asked for.
    """
    where = f"params.yaml: {section}.name: {name}"
    try:
        return call()
    except GatedRepoError:
        raise UserError(f"{where}: gated on {ENDPOINT}; log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(
            f"params.yaml: {section}.revision: {name} has no revision {revision!r} on {ENDPOINT}"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"{where}: no such {section} on {ENDPOINT} (or private: `hf auth login`)"
        ) from None
    except UNREACHABLE as error:
        if isinstance(error, HfHubHTTPError):
            code = error.response.status_code if error.response is not None else "no status"
            raise UserError(f"{where}: {ENDPOINT} answered {code}; try again later") from None
        if found:
            raise UserError(
                f"{where}: {ENDPOINT} stopped answering in the middle of a download; run it again,"
                " what has come is kept"
            ) from None
        raise UserError(
            f"{where}: cannot reach {ENDPOINT}; check the network and HF_ENDPOINT, or use a local"
            f" {section}"
        ) from None
    except (RuntimeError, ValueError, OSError, DatasetsError) as error:
        raise UserError(f"{where}: {error}") from None
