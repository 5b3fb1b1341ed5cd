"""Stage finetune: FP32 fine-tuning, none for a checkpoint that already answers questions.

Writes models/fp32/, the baseline and the teacher of quantization-aware training.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.errors import run
from bert_qa.files import whole_folder
from bert_qa.finetuning import fine_tune
from bert_qa.launching import launch
from bert_qa.params import Checkpoints, Finetune, Sections, read_params
from bert_qa.unfinished import unfinished

BASE, WINDOWS = Path("models/base"), Path("data/windows/train.arrow")
LOGS = Path("metrics/finetune")


class Params(Sections):
    finetune: Finetune
    checkpoints: Checkpoints


def main() -> None:
    params = read_params(Params)
    kept = params.checkpoints.other_runs
    with (
        unfinished("finetune", [params.finetune], [BASE, WINDOWS], others=kept) as checkpoints,
        whole_folder(Path("models/fp32")) as out,  # held from here: no second run trains beside
    ):
        launch(
            params.finetune.processes,
            "finetune.processes",
            fine_tune,
            base=BASE,
            windows=WINDOWS,
            out=out,
            checkpoints=checkpoints,
            logs=LOGS,
            params=params.finetune,
        )


if __name__ == "__main__":
    run(main)
