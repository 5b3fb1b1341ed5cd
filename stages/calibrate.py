"""Stage calibrate: outliers tamed, INT8 quantizers inserted, ranges from windows and weights.

Writes models/ptq/, what post-training quantization gives: where quantization-aware training starts
and what it is measured against.
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
from qa.outputs import whole_folder
from qa.params import read_params
from qa.recipe import left_out, quantize, save
from qa.squad import read_examples, subset

FP32 = Path("models/fp32")
DATA = Path("data/squad/train.jsonl")


def main() -> None:
    params = read_params()
    with whole_folder(Path("models/ptq")) as out:  # held from here: no second run works beside
        tokenizer = load_tokenizer(FP32)
        model, _ = load_model(FP32, dropout=False)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        examples = subset(read_examples(DATA), params.calibrate.examples, params.calibrate.seed)
        windows = make_windows(examples, tokenizer, **params.windows.model_dump())
        model, applied = quantize(model, windows, tokenizer.pad_token_id, params.calibrate)
        for step in left_out(params.calibrate, applied):
            print(f"calibrate.{step}: left out, it does not suit a {model.config.model_type}")
        save(out, model, applied, FP32)


if __name__ == "__main__":
    run(main)
