"""Where this project's time over a table goes, and how near it is to the processor's limit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from benchmark.contenders import Setting
from bert_qa.answering import open_engine
from bert_qa.batches import BATCH_TOKENS, SHAPES, make_batches
from bert_qa.sessions import Sessions
from bert_qa.squad import Example
from bert_qa.windows import Tokenizer, WindowSet, make_windows


def account(
    setting: Setting,
    examples: Sequence[Example],
    table_s: float,
) -> dict[str, Any]:
    """Where this project's time over the table goes, and how near it is to the processor's limit.

    Args:
        examples: the rows of the table.
        table_s: seconds that this project took for them.

    Returns:
        `ceiling_gops`, INT8 operations a second at most, in billions; `fraction_of_ceiling`, what
        the model's matrix products would take at that speed as a share of what the table took; of
        the rest `tokenization` and `decoding`, as shares of the same if nothing ran beside them,
        and `padding`, the share of the positions computed that are padding; `compiling`, see
        `compile_shares`; `operators`, see `operator_shares`.
    """
    engine = open_engine(
        setting.qat,
        setting.windows,
        setting.decoding,
        provider="OpenVINOExecutionProvider",
        precision="fp32",
        cache=None,
    )
    parts: dict[str, float] = {}
    with _timed(parts, "tokenization"):
        windows = make_windows(examples, engine.tokenizer, **engine.windows.model_dump())
    reading = engine.read(examples)
    with _timed(parts, "decoding"):
        engine.decode(reading)
    config = AutoConfig.from_pretrained(setting.qat, local_files_only=True, trust_remote_code=False)
    layers, hidden = config.num_hidden_layers, config.hidden_size
    intermediate = getattr(config, "intermediate_size", None) or config.hidden_dim  # DistilBERT's
    ceiling = int8_ceiling_gops(hidden, intermediate, max(BATCH_TOKENS))
    lengths = windows.lengths
    products_s = operations(lengths, layers, hidden, intermediate) / ceiling / 1e9
    padded = sum(len(batch.indices) * batch.length for batch in make_batches(lengths))
    return {
        "ceiling_gops": four_digits(ceiling),
        "fraction_of_ceiling": four_digits(products_s / table_s),
        "tokenization": four_digits(parts["tokenization"] / table_s),
        "decoding": four_digits(parts["decoding"] / table_s),
        "padding": four_digits(1 - sum(lengths) / padded),
        "compiling": compile_shares(setting.qat, engine.tokenizer, setting.windows.max_length),
        "operators": operator_shares(setting.qat / "model.onnx", windows),
    }


def compile_shares(folder: Path, tokenizer: Tokenizer, max_length: int) -> dict[str, float]:
    """What OpenVINO compiles when it first meets a batch's shape, beside the batch itself.

    Full batches of all shapes, the same one several times in each session of a table.

    Args:
        folder: of the exported model.
        max_length: tokens of the longest batches.

    Returns:
        The time of a shape's first run above that of later ones, as a share of the later ones'
        time, the median of the shapes: `new_tokens` where no batch before had as many tokens,
        padding included, `known_tokens` where one had, in other rows and columns; without what no
        shape of `max_length` shows.
    """
    shares: dict[str, list[float]] = {"new_tokens": [], "known_tokens": []}
    known: set[int] = set()
    names = ["input_ids", "attention_mask", *["token_type_ids"] * tokenizer.has_token_types]
    with Sessions(folder, "OpenVINOExecutionProvider", "fp32") as sessions:
        for length, rows in [(8, 1), *(s for s in reversed(SHAPES) if s[0] <= max_length)]:
            batch = {name: np.ones((rows, length), dtype=np.int64) for name in names}
            seconds = []
            for _ in range(4 * sessions.count):  # the sessions take turns
                before = time.perf_counter()
                sessions.forward(batch)
                seconds.append(time.perf_counter() - before)
            first, later = seconds[: sessions.count], seconds[sessions.count :]
            if known:  # the very first run is slower for more reasons
                name = "known_tokens" if length * rows in known else "new_tokens"
                shares[name].append(float(np.median(first) / np.median(later)) - 1)
            known.add(length * rows)
    return {name: four_digits(float(np.median(some))) for name, some in shares.items() if some}


def operator_shares(model: Path, windows: WindowSet) -> dict[str, float]:
    """Which operators an ONNX model spends its time in, as OpenVINO's profiler sees it.

    All batches of the table, by the openvino package: ONNX Runtime's provider, which brings an
    OpenVINO of its own, does not tell.

    Returns:
        By OpenVINO's operator and kernel, its share of the time, largest first; `FullyConnected`
        includes the GELU fused into it, and `Subgraph` is attention.
    """
    import openvino

    request = (
        openvino.Core()
        .compile_model(model, "CPU", {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"})
        .create_infer_request()
    )
    for batch in make_batches(windows.lengths):
        request.infer(windows.pad(batch.indices, batch.length))
    seconds: dict[str, float] = {}
    for operator in request.profiling_info:  # means of all runs since the model was compiled
        name = f"{operator.node_type}, {operator.exec_type}"
        seconds[name] = seconds.get(name, 0.0) + operator.real_time.total_seconds()
    total = sum(seconds.values())
    order = sorted(seconds, key=lambda name: -seconds[name])
    shares = {name: four_digits(seconds[name] / total) for name in order}
    return {name: share for name, share in shares.items() if share >= 0.01}


@contextmanager
def _timed(parts: dict[str, float], name: str) -> Iterator[None]:
    before = time.perf_counter()
    yield
    parts[name] = time.perf_counter() - before


def four_digits(value: float) -> float:
    """Four significant digits: no timing here knows more."""
    return float(f"{value:.4g}")


def int8_ceiling_gops(hidden_size: int, intermediate_size: int, tokens: int) -> float:
    """What this processor reaches in INT8 matrix products of the model's own shapes.

    The products of one layer, by `torch._int_mm`, whose kernels are oneDNN's, as OpenVINO's are.

    Returns:
        Billions of operations a second, a multiplication and an addition counting as two; the
        median of 30 runs.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    products = []
    for inner, outer, count in (
        (hidden_size, hidden_size, 4),
        (hidden_size, intermediate_size, 1),
        (intermediate_size, hidden_size, 1),
    ):
        a, b = (
            torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)
            for shape in ((tokens, inner), (inner, outer))
        )
        products += [(a, b)] * count
    seconds = []
    for _ in range(30):
        before = time.perf_counter()
        for a, b in products:
            torch._int_mm(a, b)
        seconds.append(time.perf_counter() - before)
    operations = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in products)
    return operations / float(np.median(seconds)) / 1e9


def operations(
    lengths: Sequence[int], layers: int, hidden_size: int, intermediate_size: int
) -> float:
    """Operations of an encoder's matrix products over windows, padding not counted.

    Args:
        lengths: tokens of each window.
    """
    linear = 2 * (4 * hidden_size**2 + 2 * hidden_size * intermediate_size)
    attention = 4 * hidden_size  # times the length: the two products of a token with all others
    return float(sum(layers * n * (linear + attention * n) for n in lengths))
