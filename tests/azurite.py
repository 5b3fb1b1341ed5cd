"""Azure Storage on this machine for tests: Azurite, and clones of a project that use it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

from tests.conftest import ROOT, Project


class Azurite:
    """Azurite on a free port of loopback, with a key of its own."""

    def __init__(self, data: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data = data
        self.start()

    def start(self) -> None:
        """Start it, on the same data and port as before, and wait until it answers."""
        self.process = subprocess.Popen(
            [ROOT / "cloud/azurite.sh", str(self.port)],
            env={**os.environ, "AZURITE_DATA": str(self.data)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"export AZURE_STORAGE_CONNECTION_STRING='(.*)'", line):
                self.connection_string = found[1]
            if "successfully listens" in line:
                return
        raise AssertionError("Azurite did not start")

    def kill(self) -> None:
        """End it as a machine that loses power does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def part(self, name: str) -> str:
        """One part of the connection string."""
        return dict(part.split("=", 1) for part in self.connection_string.split(";") if part)[name]

    def sas(self, permission: AccountSasPermissions) -> str:
        """A connection string that may do so much with blobs, and nothing with containers."""
        token = generate_account_sas(
            "local",
            self.part("AccountKey"),
            ResourceTypes(object=True),
            permission,
            datetime.now(UTC) + timedelta(hours=1),
        )
        return f"BlobEndpoint={self.part('BlobEndpoint')};SharedAccessSignature={token}"


def clone(project: Project, folder: Path, azurite: Azurite) -> Project:
    """A git clone, without cache, outputs or .dvc/config.local, and with Azurite's credentials."""
    copy = project.clone(folder)
    copy.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
    return copy
