"""The Azure Blob container behind the DVC remote: which credentials open it, and what is wrong.

Knows how Azure Storage answers, and turns that into one line. Knows nothing of what the blobs are;
DVC pushes and pulls by itself, with the same credentials.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import (
    AzureCliCredential,
    ChainedTokenCredential,
    ManagedIdentityCredential,
)
from azure.storage.blob import ContainerClient, LinearRetry

from bert_qa.errors import UserError, first_sentence

CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
SAS_TOKEN = "AZURE_STORAGE_SAS_TOKEN"  # noqa: S105  the variable's name
IMDS = "http://169.254.169.254/metadata/instance?api-version=2021-02-01"
"""Azure's instance metadata endpoint. Other clouds serve a different API at this address."""

MAKE = "make"


def _patience() -> dict[str, Any]:
    """How long the client waits, in seconds: its own defaults come to minutes."""
    return {
        "connection_timeout": 5,
        "read_timeout": 10,
        "retry_policy": LinearRetry(backoff=1, retry_total=2, random_jitter_range=0),
    }


def on_azure() -> bool:
    """Whether this machine has a managed identity: an Azure VM's or an Azure ML job's."""
    if os.environ.get("IDENTITY_ENDPOINT") or os.environ.get("MSI_ENDPOINT"):
        return True
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(IMDS, headers={"Metadata": "true"}), None, 1) as it:
            return "compute" in json.load(it)
    except (OSError, ValueError):
        return False


def open_container(account: str | None, container: str) -> ContainerClient:
    """A client of a container, with the first credentials that there are.

    In this order: a connection string, a SAS token (both from the environment), the managed
    identity of this machine, `az login`.

    Args:
        account: the storage account; a connection string names its own.

    Raises:
        UserError: there are no credentials, no account, what is no account's name, or a connection
            string that is broken or of another account.
    """
    if account and not re.fullmatch(r"[a-z0-9]{3,24}", account):
        name = re.match(r"(?:https?://)?([a-z0-9]{3,24})\.(?:blob|dfs)\.", account)
        raise UserError(
            f"ACCOUNT: found '{account}'; give the account's name"
            + (f": {name[1]}" if name else ", 3 to 24 lower-case letters and digits")
        )
    connection_string = os.environ.get(CONNECTION_STRING)
    if connection_string:
        try:
            _check_key(connection_string)
            client = ContainerClient.from_connection_string(
                connection_string, container, **_patience()
            )
        except ValueError as error:
            raise UserError(
                f"{CONNECTION_STRING}: {first_sentence(error)}; copy it whole from the account"
            ) from None
        if account and client.account_name not in {account, None}:  # None: a domain of its own
            raise UserError(
                f"wrong account: ACCOUNT is {account}, {CONNECTION_STRING} is of"
                f" {client.account_name}; give the one, or unset the other"
            )
        return client
    if not account:
        raise UserError(
            f"no storage account: run `make remote ACCOUNT=name`, or set {CONNECTION_STRING} in the"
            " environment"
        )
    url = f"https://{account}.blob.core.windows.net"
    sas_token = os.environ.get(SAS_TOKEN)
    if sas_token:
        return ContainerClient(url, container, AzureSasCredential(sas_token), **_patience())
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)  # a page on every credential
    chain: list[Any] = []
    if on_azure():
        chain.append(ManagedIdentityCredential(client_id=os.environ.get("AZURE_CLIENT_ID")))
    if shutil.which("az"):
        chain.append(AzureCliCredential())
    if not chain:
        raise UserError(
            f"no credentials: set {CONNECTION_STRING} or {SAS_TOKEN}, or install the Azure CLI and"
            " run `az login`; on a VM, give it an identity"
        )
    return ContainerClient(url, container, ChainedTokenCredential(*chain), **_patience())


def _check_key(connection_string: str) -> None:
    """Decode the account's key, which the client does at the first request, and words it worse.

    Raises:
        ValueError: it is not base64.
    """
    parts = dict(part.partition("=")[::2] for part in connection_string.split(";"))
    try:
        base64.b64decode(parts.get("AccountKey", ""), validate=True)
    except ValueError:
        raise ValueError("AccountKey is not base64") from None


@contextmanager
def one_line(client: ContainerClient, doing: str) -> Iterator[None]:
    """Turn what Azure Storage says inside the block into one line that says what to do.

    Args:
        doing: what the block does, for the message: "read", "write".

    Raises:
        UserError: in place of any error of the Azure libraries.
    """
    try:
        yield
    except AzureError as error:
        raise UserError(_explain(error, client, doing)) from None


def check_container(client: ContainerClient) -> bool:
    """Write, read and delete a small blob; make the container if it is missing.

    Returns:
        Whether the container was made.

    Raises:
        UserError: one of them cannot be done.
    """
    made = False
    blob = client.get_blob_client(f"check/{os.getpid()}-{os.urandom(4).hex()}")
    content = os.urandom(16)
    with one_line(client, "write to"):
        try:
            blob.upload_blob(content)
        except HttpResponseError as error:
            if getattr(error, "error_code", None) != "ContainerNotFound":
                raise
            made = True
    if made:
        with one_line(client, MAKE):
            client.create_container()
            blob.upload_blob(content)
    with one_line(client, "read from"):
        if blob.download_blob().readall() != content:
            raise UserError(f"{client.container_name}: a blob came back changed; try again")
    with one_line(client, "delete from"):
        blob.delete_blob()
    return made


def _explain(error: AzureError, client: ContainerClient, doing: str) -> str:
    account, container = client.account_name or client.primary_hostname, client.container_name
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        if re.search(r"resolve|Name or service|getaddrinfo", str(error)):
            return f"wrong account: no storage account is named {account}; check ACCOUNT"
        return (
            f"unreachable: {client.primary_hostname} does not answer; check network, proxy and the"
            " account's firewall"
        )
    code = getattr(error, "error_code", None)
    code = getattr(code, "value", code)
    status = getattr(error, "status_code", None)
    if code == "ContainerNotFound" or (doing == MAKE and status == 403):
        return (
            f"no such container: {container} in {account}, and these credentials may not create"
            f" it; ask its owner to run: az storage container-rm create --storage-account {account}"
            f" --name {container}"
        )
    if code in {"ResourceNotFound", "AccountIsDisabled", "InvalidOperation"}:
        return f"wrong account: {account} is not served at {client.primary_hostname}; check ACCOUNT"
    if code == "InvalidResourceName":
        return f"no such container: {container} is no name for one; 3 to 63 of a-z, 0-9 and -"
    if isinstance(error, ClientAuthenticationError) and status is None:
        return "no credentials: no managed identity and no `az login` gives a token; run `az login`"
    if code in {"AuthenticationFailed", "InvalidAuthenticationInfo"}:
        return (
            f"wrong credentials: {account} does not accept them (or they have expired); copy key or"
            " SAS token anew"
        )
    if status == 403:
        return (
            f"no permission to {doing} container {container} of {account} ({code}); ask for the"
            " role Storage Blob Data Contributor on it, or for a key or SAS token that may read,"
            " write, delete and list"
        )
    return f"{account}: could not {doing} container {container}: {first_sentence(error)}"
