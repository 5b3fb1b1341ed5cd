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
    """`sample` (the two files that ship with the project), `files` (files of your own), or an id on
    the Hugging Face Hub.
    """
    revision: Name | None
    """Commit of a data set of the Hub; null for files."""
    train_file: Name
    """SQuAD JSON, flat records (JSON, JSON Lines, Parquet) or MRQA's JSON Lines."""
    validation_file: Name
    """The same, for the scores."""
    on_bad_answer: Literal["fail", "drop"]
    """`drop` leaves questions out that cannot be used and lists them in `data/squad/dropped.jsonl`.
    """
    max_train_examples: Count | None
    """Questions drawn from the training file; null for all."""
    max_validation_examples: Count | None
    """Questions drawn from the validation file; null for all."""
    seed: Seed
    """Seed of both draws."""


class Model(_Section):
    """Where the FP32 model comes from."""

    name: Name
    """`minilm-squad` (embedded), `folder` (config, tokenizer and safetensors), or an id on the
    Hugging Face Hub.
    """
    revision: Name | None
    """Commit of a model of the Hub; null otherwise."""
    folder: Name
    """Folder of the embedded adapter, or of your own model."""


class Windows(_Section):
    """How a question and its context become token windows: `bert_qa.windows.make_windows`."""

    max_length: Annotated[int, Field(ge=16, le=2**16)]
    """Tokens of a window, question and special tokens included."""
    doc_stride: Annotated[int, Field(ge=0, le=2**16)]
    """Tokens that two windows of a context share."""
    max_question_length: Count
    """Tokens of a question; what is beyond is cut."""
    align_to_words: bool = True
    """Whether answers are whole words, in scripts that separate words; false: any tokens."""


class Decoding(_Section):
    """How logits become an answer: `bert_qa.spans.best_answers`."""

    max_answer_length: Count
    """Tokens of an answer, at most."""
    version_2_with_negative: bool
    """Whether "no answer" is an answer, as in SQuAD 2.0."""
    null_score_diff_threshold: Real
    """How much more likely "no answer" must be than the best span, in logits."""


class Training(_Section):
    """What fine-tuning and quantization-aware training have in common."""

    processes: Literal["gpu"] | Count
    """Processes that train together, on all machines; `gpu`: one a GPU."""
    max_steps: Count | None
    """Steps after which training ends, whatever the epochs; null for none."""
    learning_rate: Annotated[Real, Field(gt=0, le=1)]
    """Rate of AdamW at the end of the warm-up; it falls linearly to 0."""
    batch_size: Count
    """Windows a step, of all processes together."""
    warmup_ratio: Annotated[Real, Field(ge=0, lt=1)]
    """Share of the steps in which the learning rate rises."""
    weight_decay: Fraction
    """Decay of AdamW, a share a step and learning rate."""
    precision: TrainingPrecision
    """Precision of the passes: `auto` is bf16 where the processor multiplies in it."""
    save_steps: Count
    """Steps between two checkpoints."""
    logging_steps: Count
    """Steps between two losses in the plots."""
    seed: Seed
    """Seed of the order of windows, of dropout and of a new head."""


class Finetune(Training):
    """FP32 fine-tuning."""

    epochs: Literal["auto"] | Epochs
    """`auto`: none for a model with a trained question-answering head, else 2."""

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
    """Questions of the training set whose windows give the ranges."""
    seed: Seed
    """Seed of their draw."""
    preset: Literal["mixed", "performance"]
    """`mixed`: asymmetric activations; `performance`: symmetric ones."""
    quantize_attention: bool
    """Whether the two products of attention, which have no weights, are INT8 too."""
    shift_channels: bool
    """Whether channels between layers are centered on zero."""
    split_channels: Annotated[int, Field(ge=0, le=2**16)]
    """Copies of outlier channels that are added to each feed-forward layer."""
    smooth_quant_alpha: Annotated[Real, Field(ge=-1, le=1)]
    """How much of the outliers SmoothQuant moves into weights; -1 leaves it out."""
    overflow_fix: bool
    """Whether weights have wider ranges, so that no sum overflows on processors without VNNI."""
    rounding: Literal["gptq", "nearest"]
    """How weights are rounded: `gptq`, so that each layer's output stays; `nearest`, one by one."""


class Train(Training):
    """Quantization-aware training."""

    epochs: Epochs
    """Passes over the training windows; 0 leaves the calibrated model as it is."""
    distillation_weight: Fraction
    """Share of the FP32 model's logits in the loss; the rest is the labels'."""
    distillation_temperature: Annotated[Real, Field(ge=0.01, le=1000)]
    """That both models' logits are divided by, before they are compared."""


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
    """A CSV, Parquet or JSON Lines file, or a folder of them."""
    output: Name
    """What the answers are written to, in the same format."""
    provider: Provider
    """Execution provider of ONNX Runtime."""
    precision: Precision
    """Precision of the operators that stay in floating point."""
    on_error: Literal["fail", "keep"]
    """`keep` gives a row that cannot be answered an empty answer and the reason in a column Error.
    """
    escape_formulas: bool
    """Whether cells that a spreadsheet would run get a ' before them."""
    sessions: Literal["auto"] | Count
    """Processes that run the model; `auto`: as processors and free memory allow."""
    max_context_characters: Count
    """Characters of a context or a question; a row with more cannot be answered."""


class Evaluate(_Section):
    """Evaluation and its gate."""

    provider: Provider
    """Execution provider of ONNX Runtime."""
    precision: Precision
    """Precision of the operators that stay in floating point."""
    language: Language = "en"
    """Whose articles and characters scores know: SQuAD's for `en`, MLQA's for the others."""
    max_f1_drop: Annotated[Real, Field(ge=0, le=100)]
    """Points of F1 that INT8 may lose against FP32 before the stage fails."""


class Benchmark(_Section):
    """What the benchmark asks of each contender."""

    questions: Count | None
    """Questions of the validation set; null for all."""
    rounds: Count
    """How often each contender answers them, in a fresh process."""
    lengths: Annotated[list[Count], Field(min_length=1)]
    """Tokens of a single question with its context."""
    repeats: Count
    """How often each contender answers one of each length."""
    rows: Annotated[list[Count], Field(min_length=1)]
    """Rows of tables with short contexts, for the growth of time and memory."""
    steps: Annotated[int, Field(ge=0, lt=2**31)]
    """Training steps of each kind; 0 for none."""


class Checkpoints(_Section):
    """Unfinished runs: `bert_qa.unfinished`."""

    other_runs: Annotated[int, Field(ge=0, lt=2**31)]
    """Unfinished runs kept for each stage, beside the one that runs: the last used."""


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
