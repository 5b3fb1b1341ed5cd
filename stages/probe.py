"""Stage probe: the model on its windows, then two of its layers through the pipeline.

What a model or its architecture cannot do is found before the stages that take hours. Writes
models/windows.json, the windows that the model was seen to read, and models/probe.json, which later
stages wait for: the same for whatever passes, so that they do not run again.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path
from tempfile import TemporaryDirectory

from bert_qa.checkpoints import load_model
from bert_qa.errors import run
from bert_qa.files import write_json
from bert_qa.params import Calibrate, Evaluate, Finetune, Sections, Train, Windows, read_params
from bert_qa.probe import check_windows, probe
from bert_qa.quantization.recipe import left_out
from bert_qa.training import use_bf16
from bert_qa.windows import load_tokenizer

BASE = Path("models/base")


class Params(Sections):
    windows: Windows
    finetune: Finetune
    calibrate: Calibrate
    train: Train
    evaluate: Evaluate


def main() -> None:
    params = read_params(Params)
    for training in (params.finetune, params.train):
        use_bf16(training)
    model, has_head = load_model(BASE, dropout=False)
    params.finetune.epochs_for(has_head)
    check_windows(model, load_tokenizer(BASE), params.windows)
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
    write_json(Path("models/windows.json"), params.windows.model_dump())
    write_json(Path("models/probe.json"), {"passed": True})
    print("models/base: reads its windows, and its architecture goes through the pipeline")


if __name__ == "__main__":
    run(main)
