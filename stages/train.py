"""Stage train: quantization-aware training from the calibrated model, FP32 as the teacher.

Writes models/qat/, a fake-quantized model that the export stage turns into INT8.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from qa.checkpoints import load_model
from qa.errors import run
from qa.features import load_tokenizer, make_windows
from qa.outputs import fingerprint, whole_folder
from qa.params import read_params
from qa.quantization import fast_quantizers, load_quantized, save_quantized
from qa.squad import read_examples
from qa.training import (
    CHECKPOINTS,
    clear_checkpoints,
    label_windows,
    log_no_steps,
    teacher_logits,
    train,
)

FP32, PTQ = Path("models/fp32"), Path("models/ptq")
DATA = Path("data/squad/train.jsonl")
LOGS = Path("metrics/train")


def main() -> None:
    params = read_params()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(FP32)
    with whole_folder(Path("models/qat")) as out:  # held from here: no second run trains beside
        examples = read_examples(DATA)
        windows = make_windows(examples, tokenizer, **params.windows.model_dump())
        run_name = fingerprint([params.windows, params.train], [FP32, PTQ, DATA])
        checkpoints = CHECKPOINTS / "train" / run_name
        teacher = None
        if params.train.epochs > 0 and params.train.distillation_weight > 0:
            fp32, _ = load_model(FP32, dropout=False)
            teacher = teacher_logits(fp32.to(device), windows, tokenizer.pad_token_id, checkpoints)
        model = load_quantized(PTQ).to(device)
        if params.train.epochs > 0:
            with fast_quantizers(model):
                train(
                    model,
                    tokenizer.pad_token_id,
                    label_windows(windows, examples, teacher),
                    params.train,
                    epochs=params.train.epochs,
                    checkpoints=checkpoints,
                    logs=LOGS,
                    distillation_weight=params.train.distillation_weight,
                    distillation_temperature=params.train.distillation_temperature,
                )
        else:
            log_no_steps(LOGS)
        save_quantized(out, model, FP32)
    clear_checkpoints(checkpoints)


if __name__ == "__main__":
    run(main)
