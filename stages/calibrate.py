"""Stage calibrate: outliers tamed, INT8 quantizers inserted, ranges from windows and weights.

Writes models/ptq/, what post-training quantization gives: where quantization-aware training starts
and what it is measured against.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.checkpoints import best_device, load_model
from bert_qa.errors import run
from bert_qa.files import whole_folder
from bert_qa.params import Calibrate, Sections, read_params
from bert_qa.quantization.recipe import left_out, quantize, save
from bert_qa.window_files import read_windows

FP32, WINDOWS = Path("models/fp32"), Path("data/windows/train.arrow")


class Params(Sections):
    calibrate: Calibrate


def main() -> None:
    params = read_params(Params).calibrate
    with whole_folder(Path("models/ptq")) as out:  # held from here: no second run works beside
        model, _ = load_model(FP32, dropout=False)
        model.to(best_device())
        windows = read_windows(WINDOWS).windows.draw(params.examples, params.seed)
        model, applied = quantize(model, windows, params)
        for step in left_out(params, applied):
            print(f"calibrate.{step}: left out, it does not suit a {model.config.model_type}")
        save(out, model, applied, FP32)


if __name__ == "__main__":
    run(main)
