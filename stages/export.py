"""Stage export: FP32 and INT8 ONNX, each compared with the torch model it came from.

Writes models/onnx/fp32/, models/onnx/ptq/ (INT8 after calibration alone) and models/onnx/int8/
(after QAT), which Optimum and transformers load as they are.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import BaseModel
from torch.nn import Module

from qa.checkpoints import WEIGHTS_FILE, load_model
from qa.errors import run
from qa.export import check_same, describe, relative_difference, to_onnx, write_folder
from qa.features import load_tokenizer, make_windows
from qa.outputs import whole_folder
from qa.params import read_params
from qa.quantization import load_quantized, strip
from qa.recipe import left_out, read_applied
from qa.squad import read_examples, subset

FP32, DATA, ONNX = Path("models/fp32"), Path("data/squad"), Path("models/onnx")
FOLDERS = {"fp32": ONNX / "fp32", "ptq": ONNX / "ptq", "qat": ONNX / "int8"}
SOURCES = {"fp32": FP32, "ptq": Path("models/ptq"), "qat": Path("models/qat")}
LIMITS = {"fp32": 1e-4, "ptq": 5e-2, "qat": 5e-2}
CHECKED_QUESTIONS = 16


def main() -> None:
    params = read_params()
    tokenizer = load_tokenizer(FP32)
    pad_id = tokenizer.pad_token_id
    examples = subset(read_examples(DATA / "validation.jsonl"), CHECKED_QUESTIONS, seed=0)
    windows = make_windows(examples, tokenizer, **params.windows.model_dump())
    applied = read_applied(SOURCES["ptq"])
    sources = {
        "model": f"{params.model.name}@{params.model.revision}",
        "dataset": f"{params.dataset.name}@{params.dataset.revision}",
        "left_out": ", ".join(left_out(params.calibrate, applied)),
    }
    with ExitStack() as stack:  # held from here: no second run exports beside
        outs = {name: stack.enter_context(whole_folder(path)) for name, path in FOLDERS.items()}
        fp32, _ = load_model(FP32, dropout=True)
        files = {"train": DATA / "train.jsonl", "fp32": FP32 / WEIGHTS_FILE}
        made_by: dict[str, BaseModel] = {"finetune": params.finetune}
        models: dict[str, tuple[Module, Module, dict[str, str]]] = {
            "fp32": (fp32, fp32, describe(sources, files, made_by))
        }
        for name, section in (("ptq", applied), ("qat", params.train)):
            model = load_quantized(SOURCES[name])
            files[name] = SOURCES[name] / WEIGHTS_FILE
            made_by[name] = section
            metadata = describe(sources, files, made_by)
            models[name] = (model, strip(model, windows[0], pad_id), metadata)
        graphs = {}
        for name, (model, exported, metadata) in models.items():
            graphs[name] = to_onnx(exported, windows[:2], pad_id, metadata)
            difference = relative_difference(graphs[name], model, windows, pad_id)
            print(f"{name}: differs from torch by {difference:.1e} of its logits", flush=True)
            check_same(FOLDERS[name], difference, LIMITS[name])
        for name, graph in graphs.items():
            write_folder(outs[name], graph, SOURCES[name])


if __name__ == "__main__":
    run(main)
