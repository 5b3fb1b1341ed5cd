"""What a training step takes on the CPU: fine-tuning and quantization-aware training, side by side.

One step is a forward and a backward pass and the optimizer's, on the same batch for all, in turn.
The models learn nothing that is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from benchmark.roofline import four_digits
from bert_qa.checkpoints import load_model, runs_in_bf16
from bert_qa.cpu import has_bf16
from bert_qa.quantization.nncf_model import fast_quantizers, load_quantized
from bert_qa.windows import WindowSet

BATCH_SIZE = 16
LENGTH = 192


def _near(length: int) -> tuple[bool, int]:
    return length <= LENGTH, -abs(length - LENGTH)


def step_seconds(
    checkpoint: Path, calibrated: Path, windows: WindowSet, steps: int
) -> dict[str, float]:
    """Time a training step of each kind, on the CPU, on a batch of 16 windows of about 192 tokens.

    Args:
        checkpoint: folder of the FP32 model.
        calibrated: folder of the calibrated one.
        windows: to draw the batch from.
        steps: timed ones of each kind, after two that are not; 0 for none.

    Returns:
        By kind, the median in seconds. `QAT` is what the train stage does, `QAT, NNCF's operators`
        the same model as NNCF gives it. BF16 only where the processor multiplies in it, and
        the model computes in it.
    """
    if steps == 0:
        return {}
    # The longest that fit, or else the shortest there are.
    order = sorted(range(len(windows)), key=lambda i: _near(windows.lengths[i]))
    fitting = windows.take(order[-BATCH_SIZE:])
    batch = {key: torch.from_numpy(a) for key, a in fitting.pad().items()}
    positions = torch.zeros(len(fitting), dtype=torch.long)
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        fine_tuned, _ = load_model(checkpoint, dropout=False)
        native = load_quantized(calibrated)
        stack.enter_context(fast_quantizers(native))
        bf16 = has_bf16() and runs_in_bf16(fine_tuned, fitting[:1])
        models = {
            "fine-tuning": fine_tuned,
            "QAT, NNCF's operators": load_quantized(calibrated),
            "QAT": native,
        }
        kinds: dict[str, Callable[[], None]] = {}
        for name, model in models.items():
            model.train()
            learned = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(learned, lr=1e-6)
            for precision in ("FP32", "BF16") if bf16 else ("FP32",):

                def step(
                    model: torch.nn.Module = model,
                    optimizer: torch.optim.Optimizer = optimizer,
                    bf16: bool = precision == "BF16",
                ) -> None:
                    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                        output = model(**batch, start_positions=positions, end_positions=positions)
                    output.loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()

                kinds[f"{name}, {precision}"] = step
        for n in range(steps + 2):
            for name, one_step in kinds.items():
                before = time.perf_counter()
                one_step()
                if n >= 2:
                    seconds.setdefault(name, []).append(time.perf_counter() - before)
    return {name: four_digits(float(np.median(values))) for name, values in seconds.items()}
