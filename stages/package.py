"""Stage package: the INT8 model as it is released, with its model card.

Writes models/bert-qa-int8/: what export wrote to models/onnx/qat/, and README.md.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import shutil
from pathlib import Path

from bert_qa.errors import reading, run
from bert_qa.files import whole_folder
from bert_qa.model_card import make_card
from bert_qa.params import Decoding, Evaluate, Sections, Windows, read_params
from bert_qa.released_parameters import Released, write_released

MODEL, METRICS = Path("models/onnx/qat"), Path("metrics/evaluation.json")
PACKAGE = Path("models/bert-qa-int8")


class Params(Sections):
    windows: Windows
    decoding: Decoding
    evaluate: Evaluate


def main() -> None:
    params = read_params(Params)
    with reading(METRICS, "run `dvc repro evaluate`"):
        metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    with reading(f"{MODEL} or {METRICS}", "remove both and run `dvc repro`"):
        card = make_card(MODEL, metrics, params.windows, params.decoding, params.evaluate)
    with whole_folder(PACKAGE) as out:
        shutil.copytree(MODEL, out, dirs_exist_ok=True)
        write_released(out, Released(windows=params.windows, decoding=params.decoding))
        card.save(out / "README.md")
    print(f"{PACKAGE}: model card, parameters and {len(list(MODEL.iterdir()))} files")


if __name__ == "__main__":
    run(main)
