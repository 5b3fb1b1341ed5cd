"""Stage train: quantization-aware training from the calibrated model, FP32 as the teacher.

Writes models/qat/, a fake-quantized model that the export stage turns into INT8.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.checkpoints import best_device
from bert_qa.errors import run
from bert_qa.files import whole_folder
from bert_qa.params import Checkpoints, Sections, Train, read_params
from bert_qa.quantization.nncf_model import fast_quantizers, load_quantized, save_quantized
from bert_qa.teaching import read_teacher
from bert_qa.training import train
from bert_qa.unfinished import unfinished
from bert_qa.window_files import read_windows

PTQ, WINDOWS = Path("models/ptq"), Path("data/windows/train.arrow")
TEACHER = Path("data/teacher/logits.arrow")
LOGS = Path("metrics/train")


class Params(Sections):
    train: Train
    checkpoints: Checkpoints


def main() -> None:
    params = read_params(Params)
    inputs = [PTQ, WINDOWS, TEACHER]
    kept = params.checkpoints.other_runs
    with (
        unfinished("train", [params.train], inputs, others=kept) as checkpoints,
        whole_folder(Path("models/qat")) as out,  # held from here: no second run trains beside
    ):
        model = load_quantized(PTQ).to(best_device())
        with fast_quantizers(model):
            train(
                model,
                read_windows(WINDOWS),
                params.train,
                epochs=params.train.epochs,
                checkpoints=checkpoints,
                logs=LOGS,
                teacher=read_teacher(TEACHER),
                distillation_weight=params.train.distillation_weight,
                distillation_temperature=params.train.distillation_temperature,
            )
        save_quantized(out, model, PTQ)


if __name__ == "__main__":
    run(main)
