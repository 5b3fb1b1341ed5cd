"""Stage finetune: FP32 fine-tuning, none for a checkpoint that already answers questions.

Writes models/fp32/, the baseline and the teacher of quantization-aware training.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.checkpoints import load_model, save_checkpoint
from qa.errors import reading, run
from qa.features import load_tokenizer, make_windows
from qa.outputs import fingerprint, whole_folder
from qa.params import Windows, read_params
from qa.squad import read_examples
from qa.training import (
    CHECKPOINTS,
    clear_checkpoints,
    label_windows,
    log_no_steps,
    train,
)

BASE = Path("models/base")
DATA = Path("data/squad/train.jsonl")
WINDOWS = Path("models/windows.json")
LOGS = Path("metrics/finetune")


def main() -> None:
    params = read_params()
    with whole_folder(Path("models/fp32")) as out:  # held from here: no second run trains beside
        tokenizer = load_tokenizer(BASE)
        model, has_head = load_model(BASE, dropout=True, seed=params.finetune.seed)
        with reading(WINDOWS, "run `dvc repro check_params`"):
            sizes = Windows.model_validate_json(WINDOWS.read_text(encoding="utf-8"))
        epochs = params.finetune.epochs_for(has_head)
        print(f"epochs: {epochs:g} (the head is {'trained' if has_head else 'new'})")
        run_name = fingerprint([sizes, params.finetune], [BASE, DATA])
        checkpoints = CHECKPOINTS / "finetune" / run_name
        if epochs > 0:
            examples = read_examples(DATA)
            windows = make_windows(examples, tokenizer, **sizes.model_dump())
            train(
                model,
                tokenizer.pad_token_id,
                label_windows(windows, examples),
                params.finetune,
                epochs=epochs,
                checkpoints=checkpoints,
                logs=LOGS,
            )
        else:
            log_no_steps(LOGS)
        save_checkpoint(out, model, BASE)
    clear_checkpoints(checkpoints)


if __name__ == "__main__":
    run(main)
