"""Stage finetune: FP32 fine-tuning, none for a checkpoint that already answers questions.

Writes models/fp32/, the baseline and the teacher of quantization-aware training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.checkpoints import check_windows, load_model, save_checkpoint
from qa.errors import UserError, run
from qa.features import load_tokenizer, make_windows
from qa.outputs import whole_folder
from qa.params import read_params
from qa.squad import read_examples
from qa.training import (
    CHECKPOINTS,
    clear_checkpoints,
    fingerprint,
    label_windows,
    log_no_steps,
    train,
)

BASE = Path("models/base")
DATA = Path("data/squad/train.jsonl")
LOGS = Path("metrics/finetune")


def main() -> None:
    params = read_params()
    tokenizer = load_tokenizer(BASE)
    model, has_head = load_model(BASE, dropout=True, seed=params.finetune.seed)
    check_windows(model, tokenizer, params.windows)
    epochs = params.finetune.epochs
    if epochs == "auto":
        epochs = 0.0 if has_head else 2.0
        print(f"epochs: {epochs:g} (the head is {'trained' if has_head else 'new'})")
    if epochs == 0 and not has_head:
        raise UserError(
            "params.yaml: finetune.epochs: found 0, but the model's question-answering head is new:"
            " set it to auto"
        )
    checkpoints = (
        CHECKPOINTS / "finetune" / fingerprint([params.windows, params.finetune], [BASE, DATA])
    )
    if epochs > 0:
        examples = read_examples(DATA)
        windows = label_windows(
            make_windows(examples, tokenizer, **params.windows.model_dump()), examples
        )
        train(
            model,
            tokenizer.pad_token_id,
            windows,
            params.finetune,
            epochs=epochs,
            checkpoints=checkpoints,
            logs=LOGS,
        )
    else:
        log_no_steps(LOGS)
    with whole_folder(Path("models/fp32")) as out:
        save_checkpoint(out, model, BASE)
    clear_checkpoints(checkpoints)


if __name__ == "__main__":
    run(main)
