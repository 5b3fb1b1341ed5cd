"""params.yaml, typed and checked: every knob of the pipeline, its range and its meaning.

The one source of truth for parameters. Imports nothing slow, so that a wrong key is reported before
anything is loaded; what only a model or a processor can tell is in
`bert_qa.param_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from bert_qa.errors import NAMED, UserError, first_sentence, listed, shown
from bert_qa.files import same_file

PARAMS_FILE = Path("params.yaml")
SAMPLE_FILES = ("data/sample/train.json", "data/sample/validation.json")
EMBEDDED_FOLDER = "models/minilm-squad"

SPECIAL_TOKENS = 3
"""What a model puts around question and context at least: `[CLS]` and two `[SEP]` of BERT."""

S = TypeVar("S", bound=BaseModel)

UNKNOWN = {"extra_forbidden", "invalid_key"}
"""What pydantic calls a key that is none of the model's; the second is no text at all."""


def _without_nul(name: str) -> str:
    if "\0" in name:
        raise ValueError("a name cannot hold a NUL character")
    return name


# What is far beyond any use is refused too: libraries overflow where Python's integers do not.
Name = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Epochs = Annotated[Real, Field(ge=0, le=10_000)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Provider = Literal["OpenVINOExecutionProvider", "CPUExecutionProvider"]
Precision = Literal["fp32", "bf16"]
TrainingPrecision = Literal["auto", "bf16", "fp32"]
Language = Literal["en", "ar", "de", "es", "hi", "vi", "zh", "other"]
"""Whose articles and characters scores know: `bert_qa.metrics`."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Sections(BaseModel):
    """Base of what a stage reads: its own sections, as fields; the others are none of its."""

    model_config = ConfigDict(strict=True, frozen=True)


class Dataset(_Section):
    """Where the questions come from."""

    name: Name
    revision: Name | None
    train_file: Name
    validation_file: Name
    on_bad_answer: Literal["fail", "drop"]
    max_train_examples: Count | None
    max_validation_examples: Count | None
    seed: Seed


class Model(_Section):
    """Where the FP32 model comes from."""

    name: Name
    revision: Name | None
    folder: Name


class Windows(_Section):
    """How a question and its context become token windows: `bert_qa.windows.make_windows`."""

    max_length: Annotated[int, Field(ge=16, le=2**16)]
    doc_stride: Annotated[int, Field(ge=0, le=2**16)]
    max_question_length: Count
    align_to_words: bool = True


class Decoding(_Section):
    """How logits become an answer: `bert_qa.spans.best_answers`."""

    max_answer_length: Count
    version_2_with_negative: bool
    null_score_diff_threshold: Real


class Training(_Section):
    """What fine-tuning and quantization-aware training have in common."""

    processes: Literal["gpu"] | Count
    max_steps: Count | None
    learning_rate: Annotated[Real, Field(gt=0, le=1)]
    batch_size: Count
    warmup_ratio: Annotated[Real, Field(ge=0, lt=1)]
    weight_decay: Fraction
    precision: TrainingPrecision
    save_steps: Count
    logging_steps: Count
    seed: Seed


class Finetune(Training):
    """FP32 fine-tuning."""

    epochs: Literal["auto"] | Epochs

    def epochs_for(self, has_head: bool) -> float:
        """How many epochs: `auto` is none for a checkpoint with a trained head, else 2.

        Raises:
            UserError: none are set, and the head is new.
        """
        if self.epochs == "auto":
            return 0.0 if has_head else 2.0
        if self.epochs == 0 and not has_head:
            raise UserError(
                f"{PARAMS_FILE}: finetune.epochs: found 0, but the model's question-answering head"
                " is new: set it to auto"
            )
        return self.epochs


class Calibrate(_Section):
    """Post-training quantization: `bert_qa.quantization.nncf_model.calibrate`."""

    examples: Count
    seed: Seed
    preset: Literal["mixed", "performance"]
    quantize_attention: bool
    shift_channels: bool
    split_channels: Annotated[int, Field(ge=0, le=2**16)]
    smooth_quant_alpha: Annotated[Real, Field(ge=-1, le=1)]
    overflow_fix: bool
    rounding: Literal["gptq", "nearest"]


class Train(Training):
    """Quantization-aware training."""

    epochs: Epochs
    distillation_weight: Fraction
    distillation_temperature: Annotated[Real, Field(ge=0.01, le=1000)]


class Trained(BaseModel):
    """Of the section `train`, whether there is any training."""

    model_config = ConfigDict(strict=True, frozen=True)

    epochs: Epochs


class Shared(BaseModel):
    """Of the section `train`, how many processes share the work."""

    model_config = ConfigDict(strict=True, frozen=True)

    processes: Literal["gpu"] | Count


class Infer(_Section):
    """Inference on a table."""

    input: Name
    output: Name
    provider: Provider
    precision: Precision
    on_error: Literal["fail", "keep"]
    escape_formulas: bool
    sessions: Literal["auto"] | Count
    max_context_characters: Count


class Evaluate(_Section):
    """Evaluation and its gate."""

    provider: Provider
    precision: Precision
    language: Language = "en"
    max_f1_drop: Annotated[Real, Field(ge=0, le=100)]


class Benchmark(_Section):
    """What the benchmark asks of each contender."""

    questions: Count | None
    rounds: Count
    lengths: Annotated[list[Count], Field(min_length=1)]
    repeats: Count
    rows: Annotated[list[Count], Field(min_length=1)]
    steps: Annotated[int, Field(ge=0, lt=2**31)]


class Checkpoints(_Section):
    """Unfinished runs: `bert_qa.unfinished`."""

    other_runs: Annotated[int, Field(ge=0, lt=2**31)]


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
    checkpoints: Checkpoints
    evaluate: Evaluate
    benchmark: Benchmark


def read_params(sections: type[S], path: Path = PARAMS_FILE) -> S:
    """Read and check sections of params.yaml.

    Args:
        sections: a class with the sections as its fields.

    Raises:
        UserError: the file is missing or not YAML, or a key is missing, unknown or out of range;
            the message names every such key, what was found and what is expected.
    """
    try:
        return sections.model_validate(_load(path))
    except ValidationError as error:
        wrong = list(_worded(error))
    raise _refusal(path, wrong)


def read_all_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml, all of it.

    Raises:
        UserError: as `read_params`, or two keys do not go together.
    """
    params = read_params(Params, path)
    wrong = [f"{key}: {what}" for key, what in _conflicts(params)]
    if wrong:
        raise _refusal(path, wrong)
    return params


def _refusal(path: Path, wrong: list[str]) -> UserError:
    return UserError(f"{path}: {listed(wrong[:NAMED], len(wrong))}")


def _load(path: Path) -> dict[Any, Any]:
    """The content of a YAML file, by the parser that DVC reads it with."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.exists():
        raise UserError(f"{path}: no such file; run from the root of the project")
    if not path.is_file():
        raise UserError(f"{path}: not a file; restore it: git checkout {path}")
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        problem = first_sentence(getattr(error, "problem", None) or error)
        raise UserError(f"{path}: not YAML: {problem}{where}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; restore it: git checkout {path}") from None
    except (ValueError, LookupError, TypeError) as error:  # of a tag, a date, a huge number
        problem = first_sentence(error).partition(";")[0]
        raise UserError(f"{path}: a value cannot be read: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: no parameters in it; restore it: git checkout {path}")
    return content


def _worded(error: ValidationError) -> Iterator[str]:
    """One phrase for each wrong key, the unknown ones first.

    Where a name is misspelt, an unknown key and a missing one are the same mistake.
    """
    keys: dict[str, list[ErrorDetails]] = {}
    for detail in sorted(error.errors(), key=lambda e: e["type"] not in UNKNOWN):
        # A union reports each of its members: the key is what comes before their names.
        parts = (str(part) for part in detail["loc"][:2])
        key = ".".join(part if part.isprintable() else shown(part) for part in parts)
        keys.setdefault(key, []).append(detail)
    for key, details in keys.items():
        first = details[0]
        if first["type"] in UNKNOWN:
            yield f"{key}: no such parameter; fix its name or remove it"
        elif first["type"] == "missing":
            yield f"{key}: missing; add it"
        else:
            expected = " or ".join(_expected(detail) for detail in details)
            yield f"{key}: found {shown(first['input'])}; {expected}"


def _expected(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "value_error":  # of a validator in this module
            return str(detail["ctx"]["error"])
        case "bool_type":
            return "write true or false"
        case "model_type":
            return "its keys are expected under it"
    return detail["msg"][0].lower() + detail["msg"][1:]


def _conflicts(params: Params) -> Iterator[tuple[str, str]]:
    """Keys that are right by themselves and wrong together, each with what to do."""
    dataset, windows, infer = params.dataset, params.windows, params.infer
    files = (dataset.train_file, dataset.validation_file)
    if dataset.name == "sample" and files != SAMPLE_FILES:
        yield (
            "dataset.name",
            "found 'sample' with files of your own; set dataset.name=files to use them",
        )
    if dataset.name in {"sample", "files"} and same_file(*files):
        yield (
            "dataset.validation_file",
            f"found {shown(files[1])}, which is dataset.train_file; a score on what was trained on"
            " says nothing: name another file",
        )
    if params.model.name == "minilm-squad" and params.model.folder != EMBEDDED_FOLDER:
        yield (
            "model.name",
            "found 'minilm-squad' with a folder of your own; set model.name=folder to use it",
        )
    room = windows.max_length - windows.max_question_length - SPECIAL_TOKENS
    if room <= windows.doc_stride:
        yield (
            "windows.max_length",
            f"found {windows.max_length}; beside a question of {windows.max_question_length} tokens"
            f" it leaves {max(room, 0)} for the context, which must be more than windows.doc_stride"
            f" ({windows.doc_stride})",
        )
    for name, other in (
        ("infer.input", infer.input),
        ("dataset.train_file", dataset.train_file),
        ("dataset.validation_file", dataset.validation_file),
        ("the file of the parameters", str(PARAMS_FILE)),
    ):
        if same_file(infer.output, other):
            yield (
                "infer.output",
                f"found {shown(infer.output)}, which is {name}; the answers would replace it: name"
                " another file",
            )
            break
    for section, answering in (("infer", infer), ("evaluate", params.evaluate)):
        if (answering.provider, answering.precision) == ("CPUExecutionProvider", "bf16"):
            yield (
                f"{section}.precision",
                "found 'bf16'; CPUExecutionProvider computes in fp32 only: set"
                f" {section}.precision=fp32",
            )
