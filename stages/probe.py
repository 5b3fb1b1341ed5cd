"""Stage probe: two layers of the model's architecture, with random weights, through the pipeline.

What an architecture cannot do is found before the stages that take hours. Writes models/probe.json,
which they wait for: the same for whatever passes, so that they do not run again.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.errors import run
from qa.outputs import write_json
from qa.params import read_params
from qa.probe import probe
from qa.recipe import left_out

BASE = Path("models/base")


def main() -> None:
    params = read_params()
    with TemporaryDirectory() as scratch:
        applied = probe(
            BASE,
            Path(scratch),
            params.calibrate,
            params.train.precision,
            params.evaluate.provider,
        )
    for step in left_out(params.calibrate, applied):
        print(f"calibrate.{step}: will be left out, it does not suit the model's architecture")
    write_json(Path("models/probe.json"), {"passed": True})
    print("models/base: its architecture goes through the pipeline")


if __name__ == "__main__":
    run(main)
