"""Stage train: quantization-aware training from the calibrated model, FP32 as the teacher.

Writes models/qat/, a fake-quantized model that the export stage turns into INT8.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.errors import run
from bert_qa.files import whole_folder
from bert_qa.launching import launch
from bert_qa.params import Checkpoints, Sections, Train, read_params
from bert_qa.quantization.training import train_quantized
from bert_qa.unfinished import unfinished

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
        launch(
            params.train.processes,
            "train.processes",
            train_quantized,
            ptq=PTQ,
            windows=WINDOWS,
            teacher=TEACHER,
            out=out,
            checkpoints=checkpoints,
            logs=LOGS,
            params=params.train,
        )


if __name__ == "__main__":
    run(main)
