"""Quantization-aware training steps on a GPU: windows a second and memory, in under eight minutes.

python -m benchmark.gpu [--shapes minilm large] [--steps 20]

For MiniLM's shape and BERT-large's, with random weights: calibrated on some windows of the sample,
then trained in BF16 as the stage `train` does, on batches of 16 windows. On the CPU where there is
no GPU.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import resource
import time
from pathlib import Path

import torch
from tabulate import tabulate
from transformers import BertConfig, BertForQuestionAnswering

from benchmark.random_checkpoint import add_outliers
from benchmark.training_step import BATCH_SIZE
from bert_qa.adapter import ENCODER_PACKAGE, encoder_folder
from bert_qa.checkpoints import best_device, can_bf16
from bert_qa.errors import run
from bert_qa.intake import build_tokenizer
from bert_qa.params import Windows, read_all_params
from bert_qa.quantization.nncf_model import fast_quantizers
from bert_qa.quantization.recipe import quantize
from bert_qa.squad import read_questions
from bert_qa.windows import WindowSet, load_tokenizer, make_windows

SHAPES = {"minilm": (6, 384, 12), "large": (24, 1024, 16)}
"""Layers, channels and attention heads."""

CALIBRATION = 16
"""Windows to calibrate with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20, help="timed ones of each shape")
    arguments = parser.parse_args()
    params = read_all_params()
    windows = _windows(params.windows)
    rows = []
    for name in arguments.shapes:
        layers, channels, heads = SHAPES[name]
        model = BertForQuestionAnswering(
            BertConfig(
                num_hidden_layers=layers,
                hidden_size=channels,
                num_attention_heads=heads,
                intermediate_size=4 * channels,
            )
        )
        add_outliers(model)
        model = model.to(best_device()).eval()
        before = time.perf_counter()
        quantized, _ = quantize(model, windows[:CALIBRATION], params.calibrate)
        calibrated = time.perf_counter() - before
        with fast_quantizers(quantized):
            rate = windows_a_second(quantized, windows, arguments.steps)
        rows.append((name, layers, channels, calibrated, rate, peak_gigabytes()))
        del model, quantized
    print(f"{_device()}, torch {torch.__version__}, {'BF16' if can_bf16() else 'FP32'}")
    headers = ["shape", "layers", "channels", "calibration, s", "windows a second", "GB at most"]
    print(tabulate(rows, headers=headers, floatfmt=".1f", tablefmt="github"))


def windows_a_second(model: torch.nn.Module, windows: WindowSet, steps: int) -> float:
    """Train some steps; how many windows a second they take, after two that are not counted.

    Args:
        model: on the device to train on.
        windows: one batch, for all steps.
    """
    device = next(model.parameters()).device
    batch = {key: torch.from_numpy(a).to(device) for key, a in windows.pad().items()}
    batch |= {
        side: torch.ones(len(windows), dtype=torch.long, device=device)
        for side in ("start_positions", "end_positions")
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    model.train()
    before = 0.0
    for step in range(steps + 2):
        if step == 2:
            _wait(device)
            before = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=can_bf16()):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return steps * len(windows) / (time.perf_counter() - before)


def peak_gigabytes() -> float:
    """Memory at the most: of the GPU since the last call, or of this process so far."""
    if not torch.cuda.is_available():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return peak


def _windows(params: Windows) -> WindowSet:
    """As many windows of the sample as a batch has, the longest that there are."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(encoder_folder(), Path(folder), ENCODER_PACKAGE)
        tokenizer = load_tokenizer(Path(folder))
    examples = read_questions(Path("data/sample/train.json"))[:200]
    windows = make_windows(examples, tokenizer, **params.model_dump())
    order = sorted(range(len(windows)), key=lambda i: -windows.lengths[i])
    return windows.take(order[:BATCH_SIZE])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _device() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    from bert_qa.cpu import machine

    return machine()


if __name__ == "__main__":
    run(main)
