"""Stage train: quantization-aware training from the FP32 model, with it as the teacher.

Writes models/qat/, a fake-quantized model that the export stage turns into INT8.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from qa.checkpoints import load_model, torch_forward
from qa.errors import run
from qa.features import load_tokenizer, make_windows, pad_token
from qa.logits import run_windows
from qa.outputs import whole_folder
from qa.params import read_params
from qa.quantization import calibrate, save_quantized
from qa.squad import read_examples, subset
from qa.training import CHECKPOINTS, clear_checkpoints, fingerprint, label_windows, train

FP32 = Path("models/fp32")
DATA = Path("data/squad/train.jsonl")


def main() -> None:
    params = read_params()
    tokenizer = load_tokenizer(FP32)
    model, _ = load_model(FP32, dropout=False)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    examples = read_examples(DATA)
    options = params.windows.model_dump()
    windows = make_windows(examples, tokenizer, **options)
    teacher = None
    if params.train.distillation_weight > 0:
        with tqdm(total=len(examples), desc="teacher", unit="question") as bar:
            forward = torch_forward(model)
            teacher = run_windows(forward, windows, pad_token(tokenizer), bar.update)
    chosen = subset(examples, params.train.calibration_examples, params.train.seed)
    model = calibrate(
        model, make_windows(chosen, tokenizer, **options), pad_token(tokenizer), params.train
    )
    checkpoints = CHECKPOINTS / "train" / fingerprint([params.windows, params.train], [FP32, DATA])
    train(
        model,
        tokenizer,
        label_windows(windows, examples, teacher),
        params.train,
        epochs=params.train.epochs,
        checkpoints=checkpoints,
        logs=Path("metrics/train"),
        distillation_weight=params.train.distillation_weight,
        distillation_temperature=params.train.distillation_temperature,
    )
    with whole_folder(Path("models/qat")) as out:
        save_quantized(out, model, tokenizer)
    clear_checkpoints(checkpoints)


if __name__ == "__main__":
    run(main)
