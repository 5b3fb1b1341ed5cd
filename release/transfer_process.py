"""A push, a pull or a check of the remote, in a process that `release.transfer` watches.

python -m release.transfer_process push|check|pull [TARGET ...]

Prints {"files": 3}, or {"error": "..."}, and nothing of what libraries say on the way.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import logging
import sys
import warnings

from bert_qa.errors import UserError, run
from release.dvc_remote import check_complete, open_repo, pull, push


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["push", "pull", "check"])
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # DVC's and Azure's page for each file that did not arrive
    warnings.simplefilter("ignore", RuntimeWarning)  # adlfs's, of coroutines that a failure left
    sys.unraisablehook = lambda _: None  # the same, where Python has no way to warn of them
    result: dict[str, int | str] = {"files": 0}
    try:
        with open_repo() as repo:
            if arguments.command == "push":
                result = {"files": push(repo)}
            elif arguments.command == "pull":
                result = {"files": pull(repo, arguments.targets)}
            else:
                check_complete(repo)
    except UserError as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
