"""FP32 fine-tuning, from a checkpoint's folder to the baseline's.

What each process does that trains together; the loop itself is `bert_qa.training`'s.
"""

from __future__ import annotations

from pathlib import Path

from bert_qa.checkpoints import load_model, save_checkpoint
from bert_qa.launching import first_here
from bert_qa.params import Finetune
from bert_qa.training import train
from bert_qa.window_files import read_windows


def fine_tune(
    *, base: Path, windows: Path, out: Path, checkpoints: Path, logs: Path, params: Finetune
) -> None:
    """Fine-tune a checkpoint into an existing folder; not at all where its head is trained.

    Args:
        windows: the training set, as `bert_qa.window_files` writes it.
        checkpoints, logs: as in `bert_qa.training.train`.

    Raises:
        UserError: as `bert_qa.training.train` and `Finetune.epochs_for`.
    """
    model, has_head = load_model(base, dropout=True, seed=params.seed)
    epochs = params.epochs_for(has_head)
    if first_here():
        print(f"epochs: {epochs:g} (the head is {'trained' if has_head else 'new'})", flush=True)
    train(
        model,
        read_windows(windows),
        params,
        epochs=epochs,
        checkpoints=checkpoints,
        logs=logs,
    )
    if first_here():
        save_checkpoint(out, model, base)
