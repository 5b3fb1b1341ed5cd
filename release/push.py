"""Push outputs and the run cache to the DVC remote: `make push`."""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)


from bert_qa.errors import UserError, run
from release.dvc_remote import open_repo
from release.transfer import check_complete, push


def main() -> None:
    with open_repo() as repo:
        pushed = push(repo)
        print(f"{pushed} files pushed")
        try:
            check_complete(repo)
        except UserError as error:  # while a pipeline runs, that is as it should be
            print(error)
        else:
            print("everything is in the remote")


if __name__ == "__main__":
    run(main)
