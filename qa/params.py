"""params.yaml, typed and checked: every knob of the pipeline, its range and its meaning.

The one source of truth for parameters. Imports nothing of the domain, so that a wrong key is
reported before anything slow is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from qa.errors import UserError

PARAMS_FILE = Path("params.yaml")

Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
# Not strict: YAML 1.1 reads `1e-05`, as `dvc exp run -S` writes it, as a string.
Real = Annotated[float, Field(strict=False, allow_inf_nan=False)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Provider = Literal["OpenVINOExecutionProvider", "CPUExecutionProvider"]
Precision = Literal["fp32", "bf16"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Dataset(_Section):
    """Where the questions come from."""

    name: Name
    revision: str | None
    train_file: Name
    validation_file: Name
    max_train_examples: Count | None
    max_validation_examples: Count | None
    seed: Seed


class Model(_Section):
    """Where the FP32 model comes from."""

    name: Name
    revision: str | None
    folder: Name


class Windows(_Section):
    """How a question and its context become token windows: `qa.features.make_windows`."""

    max_length: Annotated[int, Field(ge=16)]
    doc_stride: Annotated[int, Field(ge=0)]
    max_question_length: Count


class Decoding(_Section):
    """How logits become an answer: `qa.spans.best_answers`."""

    max_answer_length: Count
    version_2_with_negative: bool
    null_score_diff_threshold: Real


class _Training(_Section):
    max_steps: Count | None
    learning_rate: Annotated[Real, Field(gt=0)]
    batch_size: Count
    warmup_ratio: Fraction
    weight_decay: Annotated[Real, Field(ge=0)]
    precision: Literal["auto", "bf16", "fp32"]
    save_steps: Count
    logging_steps: Count
    seed: Seed


class Finetune(_Training):
    """FP32 fine-tuning. `epochs: auto` is none for a checkpoint with a trained head, else 2."""

    epochs: Literal["auto"] | Annotated[Real, Field(ge=0)]


class Calibrate(_Section):
    """Post-training quantization: `qa.quantization.calibrate`."""

    examples: Count
    seed: Seed
    preset: Literal["mixed", "performance"]
    quantize_attention: bool
    shift_channels: bool
    split_channels: Annotated[int, Field(ge=0)]
    smooth_quant_alpha: Annotated[Real, Field(ge=-1, le=1)]
    overflow_fix: bool
    rounding: Literal["gptq", "nearest"]


class Train(_Training):
    """Quantization-aware training."""

    epochs: Annotated[Real, Field(ge=0)]
    distillation_weight: Fraction
    distillation_temperature: Annotated[Real, Field(gt=0)]


class _Answering(_Section):
    provider: Provider
    precision: Precision

    @field_validator("precision")
    @classmethod
    def _of_the_provider(cls, value: str, info: ValidationInfo) -> str:
        provider = info.data.get("provider")
        if value == "bf16" and provider == "CPUExecutionProvider":
            raise ValueError(f"{provider} computes in fp32 alone; set that")
        return value


class Infer(_Answering):
    """CSV inference."""

    input: Name
    output: Name

    @field_validator("output")
    @classmethod
    def _not_the_input(cls, value: str, info: ValidationInfo) -> str:
        if Path(value) == Path(info.data.get("input", "")):
            raise ValueError("the answers would replace the questions; name another file")
        return value


class Evaluate(_Answering):
    """Evaluation and its gate."""

    max_f1_drop: Annotated[Real, Field(ge=0, le=100)]


class Benchmark(_Section):
    """What the benchmark asks of each contender."""

    questions: Count | None
    rounds: Count
    lengths: Annotated[list[Count], Field(min_length=1)]
    repeats: Count
    rows: Annotated[list[Count], Field(min_length=1)]
    steps: Annotated[int, Field(ge=0)]


class Params(_Section):
    """All of params.yaml."""

    dataset: Dataset
    model: Model
    windows: Windows
    decoding: Decoding
    finetune: Finetune
    calibrate: Calibrate
    train: Train
    infer: Infer
    evaluate: Evaluate
    benchmark: Benchmark


def read_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: the file is missing or not YAML, or a key is missing, unknown or out of range;
            the message names the key, what was found and what is expected.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the root of the project") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: no parameters in it; restore it: git checkout {path}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        # An unknown key first: where one is misspelt, the missing one is the same mistake.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        # A union reports each of its members: the key is what comes before their names.
        key = ".".join(str(part) for part in first["loc"][:2])
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"{path}: {key}: no such parameter; mend its name or remove it"
            ) from None
        if first["type"] == "missing":
            raise UserError(f"{path}: {key}: missing; add it") from None
        expected = " or ".join(
            e["msg"][0].lower() + e["msg"][1:]
            for e in error.errors()
            if e["loc"][:2] == first["loc"][:2]
        )
        raise UserError(f"{path}: {key}: found {first['input']!r}; {expected}") from None
