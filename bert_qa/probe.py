"""A small copy of a model's architecture through the whole pipeline, before anything takes hours.

Two of its layers with random weights are calibrated, trained for a step, exported and run on the
execution provider, on a few short windows. What an architecture cannot do is seen that way, and
not by a list of names that grows old. The model itself reads two windows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    PretrainedConfig,
    PreTrainedModel,
)

from bert_qa.checkpoints import WEIGHTS_FILE, load_model, save_checkpoint, torch_forward
from bert_qa.errors import UserError, first_sentence
from bert_qa.export import check_size, relative_difference, to_onnx, write_folder
from bert_qa.logits import relative_rms, run_windows
from bert_qa.params import Calibrate, Provider, Train, TrainingPrecision, Windows
from bert_qa.quantization.nncf_model import fast_quantizers, load_quantized, save_quantized, strip
from bert_qa.quantization.recipe import quantize, save
from bert_qa.sessions import onnx_forward
from bert_qa.squad import Example, Span
from bert_qa.training import train, use_bf16
from bert_qa.windows import (
    Tokenizer,
    WindowSet,
    label_windows,
    load_tokenizer,
    make_windows,
    padded_length,
)

LAYERS = 2

CONTEXT = "Ada was in London, Byron in Greece. "
EXAMPLES = [
    Example(str(n), "Who was in Greece?", CONTEXT * n, (Span("Byron", CONTEXT.index("Byron")),))
    for n in (1, 2, 4)
]
"""Of several lengths, of which two are traced: a graph for one length alone is found out."""

SPREAD = 1.7
"""Of random weights, times the square root of a layer's inputs: logits depend on every token."""

TRAINING = Train(
    processes=1,
    epochs=1,
    max_steps=2,
    learning_rate=1e-6,
    batch_size=2,
    warmup_ratio=0.0,
    weight_decay=0.0,
    precision="auto",
    save_steps=1,
    logging_steps=1,
    seed=0,
    distillation_weight=0.5,
    distillation_temperature=1.0,
)
"""Two steps, with a checkpoint between them."""

LIMITS = {"FP32": 1e-3, "INT8": 5e-2, "provider": 0.2}
"""How far from torch an export, and the execution provider, may be with random weights, as a share
of the logits: FP32 was seen within 1e-4, INT8 within 2e-2, and the provider, whose kernels round
elsewhere, within 0.1; a graph that computes something else is off by 0.5 and more."""


def check_windows(model: PreTrainedModel, tokenizer: Tokenizer, params: Windows) -> None:
    """Let a model read a short window and one as long as they may be.

    Not every tokenizer says how much its model reads, and not every one fits its model.

    Raises:
        UserError: it cannot, or `make_windows` finds the lengths wrong.
    """
    short, long = (
        make_windows([Example("", "a", context)], tokenizer, **params.model_dump())
        for context in ("a", "a " * params.max_length)
    )
    length = padded_length(params.max_length)
    forward = torch_forward(model)
    try:
        forward(short.pad())
    except Exception as error:  # as in `load_model`
        raise UserError(
            f"{model.name_or_path}: the model does not run on its tokenizer's tokens"
            f" ({type(error).__name__}: {first_sentence(error)}); save the two that belong together"
        ) from None
    try:
        forward(long.pad(length=length))
    except Exception as error:
        raise UserError(
            f"params.yaml: windows.max_length: found {params.max_length}; this model does not read"
            f" the {length} tokens that it is padded to ({type(error).__name__}:"
            f" {first_sentence(error)}); lower it"
        ) from None


def probe(
    base: Path,
    scratch: Path,
    calibrate: Calibrate,
    precision: TrainingPrecision,
    provider: Provider,
) -> Calibrate:
    """Take a small copy of a model through calibration, a training step, export and the provider.

    Args:
        base: folder of the model, a checkpoint that this project wrote.
        scratch: an existing, empty folder.
        calibrate, precision, provider: of calibration, training and evaluation, as for the model.

    Returns:
        `calibrate` as it was applied: steps that do not suit the architecture are turned off.

    Raises:
        UserError: the architecture cannot do one of these, or the processor lacks the precision.
    """
    training = TRAINING.model_copy(update={"precision": precision})
    use_bf16(training)
    check_size((base / WEIGHTS_FILE).stat().st_size)
    folders = {
        name: scratch / name for name in ("fp32", "ptq", "qat", "onnx", "checkpoints", "logs")
    }
    for folder in folders.values():
        folder.mkdir()
    tokenizer = load_tokenizer(base)
    windows = make_windows(
        EXAMPLES,
        tokenizer,
        max_length=min(64, tokenizer.model_max_length),
        doc_stride=4,
        max_question_length=12,
    )
    config = small_config(base, windows)
    with _step(scratch, config, "a copy of two layers"):
        save_checkpoint(folders["fp32"], _random_model(config), base)
        fp32, _ = load_model(folders["fp32"], dropout=False)
        before = run_windows(torch_forward(fp32), windows)
    with _step(scratch, config, "ONNX export"):
        write_folder(folders["onnx"], to_onnx(fp32, windows[:2], {}), folders["fp32"])
        _check(relative_difference(folders["onnx"], fp32, windows), LIMITS["FP32"])
    with _step(scratch, config, "calibration"):
        quantized, applied = quantize(fp32, windows, calibrate)
        save(folders["ptq"], quantized, applied, base)
    with _step(scratch, config, "quantization-aware training"):
        for _ in range(2):  # and once more from the checkpoint of the first step
            model = load_quantized(folders["ptq"])
            with fast_quantizers(model):
                train(
                    model,
                    label_windows(windows, EXAMPLES),
                    training,
                    epochs=training.epochs,
                    checkpoints=folders["checkpoints"],
                    logs=folders["logs"],
                    teacher=before,
                    distillation_weight=training.distillation_weight,
                    distillation_temperature=training.distillation_temperature,
                )
        save_quantized(folders["qat"], model, base)
    with _step(scratch, config, "INT8 export"):
        model = load_quantized(folders["qat"])
        graph = to_onnx(strip(model, windows), windows[:2], {})
        write_folder(folders["onnx"], graph, folders["qat"])
        _check(relative_difference(folders["onnx"], model, windows), LIMITS["INT8"])
    with _step(scratch, config, f"INT8 on {provider}"):
        ours = run_windows(onnx_forward(folders["onnx"], provider, "fp32"), windows)
        theirs = run_windows(torch_forward(model), windows)
        _check(relative_rms(ours, theirs), LIMITS["provider"])
    return applied


def small_config(base: Path, windows: WindowSet) -> PretrainedConfig:
    """The config of a model, for a copy of two layers and of the tokens that the windows have."""
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > LAYERS:
        with suppress(NotImplementedError):  # Funnel counts them in another way: all of them
            config.num_hidden_layers = LAYERS
            for key, value in config.to_dict().items():
                if isinstance(value, list) and len(value) == layers:  # one entry a layer
                    setattr(config, key, value[:LAYERS])
    tokens = [
        windows.pad_token_id,
        *(max(window.input_ids) for window in windows),
        *(
            value
            for key, value in config.to_dict().items()
            if key.endswith("_token_id") and isinstance(value, int)
        ),
    ]
    config.vocab_size = min(config.vocab_size, max(tokens) + 1)
    return config


def _random_model(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForQuestionAnswering.from_config(
        config, trust_remote_code=False, dtype=torch.float32
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=SPREAD / parameter[0].numel() ** 0.5)
    return model


@contextmanager
def _step(scratch: Path, config: PretrainedConfig, what: str) -> Iterator[None]:
    """Word what goes wrong inside the block, and keep to itself what libraries say meanwhile."""
    try:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            yield
    except (OSError, MemoryError):
        raise  # of the machine
    except Exception as error:  # each architecture has its own way to say that it cannot
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = first_sentence(error).replace(f"{scratch}/", "")
        raise UserError(
            f"params.yaml: model: {what} fails for a {config.model_type}"
            f" ({kind}{reason}); use another architecture"
        ) from None


def _check(difference: float, limit: float) -> None:
    if not difference <= limit:
        raise UserError(f"the logits differ from torch's by {difference:.1e} of them")
