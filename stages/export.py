"""Stage export: FP32 and INT8 ONNX, each compared with the torch model it came from.

Writes models/onnx/: fp32/, ptq/ (INT8 after calibration) and qat/ (INT8 after training).
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel

from bert_qa.checkpoints import WEIGHTS_FILE, load_model
from bert_qa.errors import run
from bert_qa.export import check_same, describe, relative_difference, to_onnx, write_folder
from bert_qa.files import whole_folder
from bert_qa.params import Calibrate, Dataset, Finetune, Model, Sections, Train, read_params
from bert_qa.quantization.nncf_model import load_quantized, strip
from bert_qa.quantization.recipe import left_out, read_applied
from bert_qa.window_files import read_windows

ONNX = Path("models/onnx")
TRAIN, WINDOWS = Path("data/squad/train.jsonl"), Path("data/windows/validation.arrow")
FOLDERS = {name: ONNX / name for name in ("fp32", "ptq", "qat")}
SOURCES = {"fp32": Path("models/fp32"), "ptq": Path("models/ptq"), "qat": Path("models/qat")}
LIMITS = {"fp32": 1e-4, "ptq": 5e-2, "qat": 5e-2}
CHECKED_QUESTIONS = 16


class Params(Sections):
    dataset: Dataset
    model: Model
    finetune: Finetune
    calibrate: Calibrate
    train: Train


def main() -> None:
    params = read_params(Params)
    windows = read_windows(WINDOWS).windows.draw(CHECKED_QUESTIONS, seed=0)
    applied = read_applied(SOURCES["ptq"])
    sources = {
        "model": f"{params.model.name}@{params.model.revision}",
        "dataset": f"{params.dataset.name}@{params.dataset.revision}",
        "left_out": ", ".join(left_out(params.calibrate, applied)),
    }
    files, made_by = {"train": TRAIN}, dict[str, BaseModel]()
    sections = {"fp32": params.finetune, "ptq": applied, "qat": params.train}
    with ExitStack() as stack:  # held from here: no second run exports beside
        outs = {name: stack.enter_context(whole_folder(path)) for name, path in FOLDERS.items()}
        for name, source in SOURCES.items():  # one model at a time in memory
            files[name] = source / WEIGHTS_FILE
            made_by["finetune" if name == "fp32" else name] = sections[name]
            metadata = describe(sources, files, made_by)
            fp32 = name == "fp32"
            model = load_model(source, dropout=True)[0] if fp32 else load_quantized(source)
            exported = model if fp32 else strip(model, windows)
            write_folder(outs[name], to_onnx(exported, windows[:2], metadata), source)
            del exported
            difference = relative_difference(outs[name], model, windows)
            print(f"{name}: differs from torch by {difference:.1e} of its logits", flush=True)
            check_same(FOLDERS[name], difference, LIMITS[name])


if __name__ == "__main__":
    run(main)
