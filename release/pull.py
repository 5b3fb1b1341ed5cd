"""Fetch outputs from the DVC remote: `make pull`, or `make pull TARGET=models/onnx/qat`.

python -m release.pull              everything, with the run cache
python -m release.pull TARGET ...   outputs or stages of dvc.yaml
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse

from bert_qa.errors import run
from release.dvc_remote import open_repo
from release.transfer import pull


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch outputs from the DVC remote.")
    parser.add_argument("target", nargs="*", help="an output or a stage; all without")
    targets = parser.parse_args().target
    with open_repo() as repo:
        print(f"{pull(repo, targets)} files fetched")


if __name__ == "__main__":
    run(main)
