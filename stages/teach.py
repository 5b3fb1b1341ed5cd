"""Stage teach: the FP32 model's logits of the training windows, which quantized training follows.

Writes data/teacher/logits.arrow, without rows where nothing is taught.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
from pathlib import Path

from bert_qa.checkpoints import best_device, load_model, torch_forward
from bert_qa.errors import reading, run
from bert_qa.files import whole_folder
from bert_qa.launching import launch
from bert_qa.params import Checkpoints, Sections, Shared, read_params
from bert_qa.progress import progress
from bert_qa.teaching import write_no_teacher, write_share, write_teacher
from bert_qa.unfinished import unfinished
from bert_qa.window_files import read_windows

FP32, WINDOWS = Path("models/fp32"), Path("data/windows/train.arrow")
WANTED = Path("models/teacher.json")
OUT = Path("data/teacher")


class Params(Sections):
    train: Shared
    checkpoints: Checkpoints


def main() -> None:
    params = read_params(Params)
    kept = params.checkpoints.other_runs
    with reading(WANTED, "run `dvc repro check_params`"):
        teaches = json.loads(WANTED.read_text(encoding="utf-8"))["teaches"]
    windows = read_windows(WINDOWS).windows
    inputs = [FP32, WINDOWS]
    with (
        unfinished("teach", [params.train], inputs, others=kept) as parts,
        whole_folder(OUT) as out,
    ):
        if not teaches:
            write_no_teacher(out / "logits.arrow")
            return
        together = 1
        if params.train.processes != 1:
            share = {"folder": FP32, "windows_file": WINDOWS, "parts": parts}
            together = launch(params.train.processes, "train.processes", write_share, **share)
        model, _ = load_model(FP32, dropout=False)
        forward = torch_forward(model.to(best_device()))
        with progress("teacher", len(windows), "window") as bar:
            write_teacher(
                out / "logits.arrow", forward, windows, parts, bar.update, processes=together
            )


if __name__ == "__main__":
    run(main)
