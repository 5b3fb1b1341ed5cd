"""Set up the DVC remote on Azure Blob Storage and check that it works.

python -m release.set_up --account A --container C     as `make remote ACCOUNT=A CONTAINER=C` does
Writes account and container to .dvc/config.local, which git does not hold.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import os

from bert_qa.errors import run
from release.container import check_container, on_azure, open_container
from release.dvc_remote import REMOTE, open_repo


def main() -> None:
    parser = argparse.ArgumentParser(description="Set up the Azure Blob remote and check it.")
    parser.add_argument("--account", default="", help="unless a connection string names it")
    parser.add_argument("--container", default="bert-qa", help="made if it is missing")
    arguments = parser.parse_args()
    client = open_container(arguments.account or None, arguments.container)
    made = check_container(client)
    settings: dict[str, str | bool] = {"url": f"azure://{arguments.container}/dvc"}
    if arguments.account:
        # DVC's DefaultAzureCredential waits for each kind of credentials that cannot be here.
        settings |= {
            "account_name": arguments.account,
            "exclude_environment_credential": "AZURE_TENANT_ID" not in os.environ,
            "exclude_managed_identity_credential": not on_azure(),
            "exclude_visual_studio_code_credential": True,
            "exclude_shared_token_cache_credential": True,
        }
    with open_repo() as repo, repo.config.edit("local") as config:
        config.setdefault("remote", {})[REMOTE] = settings
    print(
        f"container {arguments.container} of {client.account_name}"
        f" {'made' if made else 'found'}: read, write and delete work; .dvc/config.local names it"
    )


if __name__ == "__main__":
    run(main)
