"""Quantization-aware training, from a calibrated model's folder to the trained one's.

What each process does that trains together; the loop itself is `bert_qa.training`'s.
"""

from __future__ import annotations

from pathlib import Path

from bert_qa.checkpoints import best_device
from bert_qa.launching import first_here
from bert_qa.params import Train
from bert_qa.quantization.nncf_model import fast_quantizers, load_quantized, save_quantized
from bert_qa.teaching import read_teacher
from bert_qa.training import train
from bert_qa.window_files import read_windows


def train_quantized(
    *,
    ptq: Path,
    windows: Path,
    teacher: Path,
    out: Path,
    checkpoints: Path,
    logs: Path,
    params: Train,
) -> None:
    """Train a calibrated model with its quantizers into an existing folder.

    Args:
        windows: the training set, as `bert_qa.window_files` writes it.
        teacher: the logits of each, as `bert_qa.teaching` writes them.
        checkpoints, logs: as in `bert_qa.training.train`.

    Raises:
        UserError: as `bert_qa.training.train`.
    """
    model = load_quantized(ptq).to(best_device())
    with fast_quantizers(model):
        train(
            model,
            read_windows(windows),
            params,
            epochs=params.epochs,
            checkpoints=checkpoints,
            logs=logs,
            teacher=read_teacher(teacher),
            distillation_weight=params.distillation_weight,
            distillation_temperature=params.distillation_temperature,
        )
    if first_here():
        save_quantized(out, model, ptq)
