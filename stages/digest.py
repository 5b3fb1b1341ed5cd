"""Stage digest: what code each stage can reach, and the version of each library that it imports.

Writes digests/, a JSON file a stage: each stage depends on its own, and on no module. They are in
git: `git diff digests/train.json` names the function that made `train` run again.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.code_digests import read_pins, stage_digests, write_digests
from bert_qa.errors import run
from bert_qa.files import whole_folder

FOLDERS = ("bert_qa", "benchmark", "stages")
PINS = ("requirements.txt", "requirements-no-deps.txt")


def main() -> None:
    scripts = {  # stages/tokenize.py would take the place of Python's own module
        path.stem.rstrip("_"): f"stages.{path.stem}"
        for path in sorted(Path("stages").glob("*.py"))
        if path.stem != "digest"
    } | {"benchmark": "benchmark.run"}
    digests = stage_digests(Path(), FOLDERS, scripts, read_pins(map(Path, PINS)))
    with whole_folder(Path("digests")) as out:
        write_digests(out, digests)


if __name__ == "__main__":
    run(main)
