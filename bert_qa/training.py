"""Training a question-answering model on windows, with the Hugging Face Trainer.

Plain fine-tuning, quantization-aware training and the LoRA adapter are the same loop: what differs
is the model that comes in. Batches are grouped by length, and a killed run resumes from its last
checkpoint. Knows nothing of quantization, of params.yaml files or of where the model goes next.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import extract_model_from_parallel
from dvclive import Live
from safetensors.torch import load_model, save_model
from torch import distributed
from torch.nn import functional
from torch.serialization import register_package
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import rotate_checkpoints

from bert_qa.checkpoints import WEIGHTS_FILE, can_bf16, runs_in_bf16
from bert_qa.errors import UserError
from bert_qa.files import hash_file, whole_file, write_json
from bert_qa.launching import first_here, own_group, world_size
from bert_qa.logits import Logits
from bert_qa.params import Training
from bert_qa.progress import progress
from bert_qa.windows import LabelledWindows, Window, WindowSet

SEAL = "hashes.json"
"""The hash of each file of a checkpoint, written when all are there: without it, or with another
file than it names, the checkpoint is not whole."""

KEPT = 2
"""Checkpoints that are kept: the one before too, should the last not be whole."""

NOT_COUNTED = -1
"""This, less a window's place, stands for the window where it counts for nothing."""

LOGGED = ("loss", "learning_rate")
"""What DVCLive plots by step; both appear under these names in the Trainer's own log."""


@dataclass(frozen=True)
class _Item:
    """A window, the tokens of its answer and, with a teacher, the teacher's logits."""

    window: Window
    start_position: int
    end_position: int
    teacher: Logits | None
    counted: bool


@dataclass(frozen=True)
class _TrainingSet(Dataset[_Item]):
    """Labelled windows and the teacher's logits of each, one item at a time."""

    labelled: LabelledWindows
    teacher: Sequence[Logits] | None

    def __len__(self) -> int:
        return len(self.labelled.windows)

    def __getitem__(self, index: int) -> _Item:
        counted = index >= 0
        index = index if counted else NOT_COUNTED - index
        return _Item(
            self.labelled.windows[index],
            int(self.labelled.starts[index]),
            int(self.labelled.ends[index]),
            None if self.teacher is None else self.teacher[index],
            counted,
        )


def use_bf16(params: Training) -> bool:
    """Whether to train under BF16 autocast: for `auto`, where the processor multiplies in BF16.

    Raises:
        UserError: `bf16` is asked for on a processor without it, where it is emulated and slow.
    """
    able = can_bf16()
    if params.precision == "bf16" and not able:
        raise UserError(
            f"params.yaml: {type(params).__name__.lower()}.precision: found 'bf16', which this"
            " processor lacks; set fp32 or auto"
        )
    return able and params.precision != "fp32"


def train(
    model: PreTrainedModel,
    labelled: LabelledWindows,
    params: Training,
    *,
    epochs: float,
    checkpoints: Path,
    logs: Path,
    teacher: Sequence[Logits] | None = None,
    distillation_weight: float = 0.0,
    distillation_temperature: float = 1.0,
) -> None:
    """Train `model` in place, resuming from `checkpoints` when a killed run left some there.

    The loss is (1 - w) times the cross-entropy of the start and end tokens plus w times the
    divergence of the student's start and end distributions from the teacher's, both softened by
    the temperature T and the divergence scaled by T squared (Hinton et al., 2015, section 2). With
    a w of 1 the answers are not looked at.

    Args:
        labelled: the training set.
        params: learning rate, batch size, schedule, precision and seed.
        epochs: passes over the training set; `params.max_steps`, when set, counts instead. None
            for 0, which leaves the model as it is and an empty log.
        checkpoints: folder of this run's checkpoints.
        logs: folder for DVCLive's plots of loss and learning rate.
        teacher: logits of each window, for a w above 0.

    Raises:
        UserError: a batch does not fit into memory, or BF16 is asked for where there is none.
    """
    if epochs == 0:
        if first_here():
            _log_no_steps(logs)
        return
    if distillation_weight > 0 and len(teacher or ()) != len(labelled.windows):
        raise UserError(
            f"the teacher's logits are of {len(teacher or ())} windows, the training set has"
            f" {len(labelled.windows)}; run `dvc repro teach`"
        )
    keep = checkpoints / "trainer"
    bf16 = _in_bf16(model, labelled.windows, params)
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    settings = _settings(params, keep, epochs, bf16=bf16)
    last = _last_checkpoint(keep)
    if last is not None and first_here():
        print(f"resuming from step {_step(last)}", flush=True)
    trainer = _QATrainer(
        model=model,
        args=settings,
        data_collator=_Collator(labelled.windows.pad_token_id, distillation_weight < 1),
        train_dataset=_TrainingSet(labelled, teacher if distillation_weight > 0 else None),
        callbacks=[*([_LiveCallback(logs)] if first_here() else []), _SealCallback()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.distillation_weight = distillation_weight
    trainer.distillation_temperature = distillation_temperature
    section = type(params).__name__.lower()
    with _memory_named(section, params.batch_size), ExitStack() as stack:
        if first_here():
            trainer.add_callback(_BarCallback(section, stack))
        trainer.add_callback(_LastStepCallback())
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    # Accelerate wrapped the forward pass in autocast: hand the model back as it came.
    extract_model_from_parallel(trainer.model, keep_fp32_wrapper=False).eval()


def _settings(params: Training, folder: Path, epochs: float, *, bf16: bool) -> TrainingArguments:
    """The Trainer's arguments, in one process or in each that trains together.

    Raises:
        UserError: they cannot share a batch equally.
    """
    together, on_gpu = world_size(), torch.cuda.is_available()
    if params.batch_size % together:
        raise UserError(
            f"params.yaml: {type(params).__name__.lower()}.batch_size: found {params.batch_size},"
            f" which {together} processes cannot share equally; set a multiple"
        )
    with own_group():
        settings = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=params.batch_size // together,
            learning_rate=params.learning_rate,
            num_train_epochs=epochs,
            max_steps=params.max_steps or -1,
            warmup_steps=params.warmup_ratio,  # a share of the steps, below 1
            weight_decay=params.weight_decay,
            bf16=bf16,
            use_cpu=not on_gpu,
            ddp_backend=_backend(),
            seed=params.seed,
            save_strategy="steps",
            save_steps=params.save_steps,
            save_on_each_node=True,  # each machine has its own project
            logging_steps=params.logging_steps,
            logging_first_step=True,
            remove_unused_columns=False,
            dataloader_pin_memory=on_gpu,
            report_to=[],
            disable_tqdm=True,  # for a bar of our own
        )
        if settings.world_size != together:  # which sets the devices up
            raise RuntimeError(f"{settings.world_size} processes where {together} were launched")
    return settings


def _backend() -> str | None:
    """What processes that train together exchange gradients by; None for one."""
    if world_size() == 1:
        return None
    return "nccl" if torch.cuda.is_available() else "gloo"


def _in_bf16(model: PreTrainedModel, windows: WindowSet, params: Training) -> bool:
    """Whether to train under BF16 autocast, in all processes or in none; says why not.

    Raises:
        UserError: as `use_bf16`.
    """
    if (backend := _backend()) is not None:
        PartialState(cpu=backend == "gloo", backend=backend)  # the processes meet
    bf16 = _all(use_bf16(params))
    if bf16 and params.precision == "auto":
        bf16 = _all(runs_in_bf16(model, windows))
        if not bf16 and first_here():
            kind = model.config.model_type
            print(f"precision: fp32, as a {kind} does not compute in BF16", flush=True)
    return bf16


def _all(here: bool) -> bool:
    """Whether something holds in all processes that train together."""
    if not distributed.is_initialized():
        return here
    everywhere = [False] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, here)
    return all(everywhere)


@contextmanager
def _memory_named(section: str, batch_size: int) -> Iterator[None]:
    """Turn torch's words for a lack of memory into one line with a remedy."""
    try:
        yield
    except RuntimeError as error:
        lacking = isinstance(error, torch.OutOfMemoryError) or "can't allocate" in str(error)
        if not lacking:
            raise
        raise UserError(
            f"params.yaml: {section}.batch_size: found {batch_size}; memory ran out on the longest"
            " windows: lower it, or windows.max_length"
        ) from None


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, on all machines; newer ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    whole = [path for path in found if _is_whole(path)]
    steps = {_step(path) for path in whole}
    if distributed.is_initialized():
        theirs: list[set[int]] = [set()] * distributed.get_world_size()
        distributed.all_gather_object(theirs, steps)
        steps.intersection_update(*theirs)
    last = max(steps, default=None)
    if first_here():
        for path in found:
            if last is None or _step(path) > last:
                shutil.rmtree(path)
    return None if last is None else folder / f"checkpoint-{last}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    try:
        hashes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        return all(hash_file(checkpoint / name) == found for name, found in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _of_numbered_cpu(storage: Any, location: str) -> Any:
    """Where a tensor of a checkpoint goes: accelerate numbers processors as it does GPUs."""
    return storage if location.startswith("cpu:") else None


# Without it, torch.load knows no place for "cpu:0"; 5 is less than the numbers of torch's own.
register_package(5, lambda _: None, _of_numbered_cpu)


class _LengthGroupedSampler(Sampler[int]):
    """Random order in which neighbours are of like length, a function of seed and epoch alone.

    transformers' own sampler draws from the global generator, whose state at the start of a later
    epoch differs after an interruption; this one gives a resumed run the same batches.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        indices: list[int] = get_length_grouped_indices(
            self.lengths, self.batch_size, generator=generator
        )
        return iter(indices)


class _ShareSampler(BatchSampler):
    """This process's share of each batch, none of which is dropped or repeated.

    The batches are those that one process would take. accelerate's own way gives every process
    equally many by repeating some. A process that is left without a window of the last batch gets
    one that counts for nothing, see `NOT_COUNTED`, so that all take the same number of steps.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, rank: int, together: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.rank, self.together = rank, together

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            yield batch[self.rank :: self.together] or [NOT_COUNTED - batch[0]]


@dataclass(frozen=True)
class _Collator:
    """Training windows to tensors: what the model takes, and the teacher's logits beside it."""

    pad_token_id: int
    with_answers: bool

    def __call__(self, items: list[_Item]) -> dict[str, torch.Tensor]:
        arrays = WindowSet([item.window for item in items], self.pad_token_id).pad()
        batch = {key: torch.from_numpy(array) for key, array in arrays.items()}
        if self.with_answers:
            batch["start_positions"] = torch.tensor([item.start_position for item in items])
            batch["end_positions"] = torch.tensor([item.end_position for item in items])
        batch["counted"] = torch.tensor(sum(item.counted for item in items))
        if items[0].teacher is not None:
            for side in ("start", "end"):
                padded = torch.zeros(batch["input_ids"].shape)
                for row, item in enumerate(items):
                    padded[row, : len(item.window)] = torch.tensor(getattr(item.teacher, side))
                batch[f"teacher_{side}_logits"] = padded
        return batch


class _QATrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """The Trainer with a teacher in its loss and batches of like length."""

    distillation_weight = 0.0
    distillation_temperature = 1.0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = self.train_dataset.labelled.windows.lengths
        size = self.args.train_batch_size * self.args.world_size
        return _LengthGroupedSampler(lengths, size, self.args.seed)

    def get_train_dataloader(self) -> DataLoader[_Item]:
        """All batches, or this process's share of each."""
        if self.args.world_size == 1:
            loader: DataLoader[_Item] = super().get_train_dataloader()
            return loader
        shares = _ShareSampler(
            self._get_train_sampler(),
            self.args.train_batch_size * self.args.world_size,
            self.args.process_index,
            self.args.world_size,
        )
        return cast(
            "DataLoader[_Item]",
            DataLoaderShard(
                self.train_dataset,
                device=self.args.device,
                batch_sampler=shares,
                collate_fn=self.data_collator,
            ),
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Not `save_pretrained`, which takes query, key and value's one quantizer, a tensor of
        # three names, for a mistake.
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS_FILE))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        file = Path(resume_from_checkpoint) / WEIGHTS_FILE
        load_model(self.model if model is None else model, file)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        teacher = {
            side: inputs.pop(f"teacher_{side}_logits")
            for side in ("start", "end")
            if f"teacher_{side}_logits" in inputs
        }
        counted = inputs.pop("counted")
        outputs = model(**inputs)
        loss = outputs.loss  # none without answers
        if self.distillation_weight > 0:
            padding = inputs["attention_mask"] == 0
            divergence = sum(
                _divergence(
                    outputs[f"{side}_logits"], logits, padding, self.distillation_temperature
                )
                for side, logits in teacher.items()
            )
            taught = self.distillation_weight * divergence / 2
            loss = taught if loss is None else (1 - self.distillation_weight) * loss + taught
        if self.args.world_size > 1:
            # The processes' gradients are averaged: as if of equally many windows.
            total = counted.clone()
            distributed.all_reduce(total)
            loss = loss * (self.args.world_size * counted / total)
        return (loss, outputs) if return_outputs else loss


def _divergence(
    student: torch.Tensor, teacher: torch.Tensor, padding: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Kullback-Leibler divergence of the student from the teacher over a window's tokens.

    Args:
        student, teacher: logits, shape (windows, length).
        padding: bool, the same shape; positions that count for nothing.

    Returns:
        A scalar: the mean over windows, times the temperature squared.
    """
    lowest = torch.finfo(torch.float32).min
    student = (student.float() / temperature).masked_fill(padding, lowest)
    teacher = (teacher.float() / temperature).masked_fill(padding, lowest)
    return temperature**2 * functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean"
    )


def _log_no_steps(folder: Path) -> None:
    """Write what DVCLive would of a training of no steps: plots that load, and hold no points."""
    write_json(folder / "metrics.json", {"step": 0})
    for name in LOGGED:
        with whole_file(folder / "plots/metrics" / f"{name}.tsv") as partial:
            partial.write_text(f"step\t{name}\n", encoding="utf-8")


class _LiveCallback(TrainerCallback):  # type: ignore[misc]
    """Logs loss and learning rate through DVCLive: a function of the training, no clocks in it.

    The Trainer's own report to DVCLive adds run times, which would make two equal runs differ. A
    resumed run first logs again what the Trainer's state remembers of the interrupted one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live: Live | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.live = Live(dir=str(self.folder), report=None, save_dvc_exp=False, dvcyaml=None)
        for entry in state.log_history:
            self._log(entry)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._log(state.log_history[-1])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.live is not None:
            self.live.end()

    def _log(self, entry: dict[str, float]) -> None:
        if self.live is None or "loss" not in entry:
            return
        self.live.step = int(entry["step"])
        for name in LOGGED:
            self.live.log_metric(name, entry[name])
        self.live.make_summary()


class _LastStepCallback(TrainerCallback):  # type: ignore[misc]
    """No checkpoint after the last step: the Trainer, resumed from it, would do one step more."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False


class _BarCallback(TrainerCallback):  # type: ignore[misc]
    """Shows the steps that are done, until `stack` ends."""

    def __init__(self, description: str, stack: ExitStack) -> None:
        self.description, self.stack = description, stack
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        shown = progress(self.description, state.max_steps, "step", state.global_step)
        self.bar = self.stack.enter_context(shown)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.bar.update(1)


class _SealCallback(TrainerCallback):  # type: ignore[misc]
    """Seals each checkpoint when it is written, see `SEAL`, and removes older ones."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if distributed.is_initialized():
            distributed.barrier()  # each process writes the state of its generators
        if not first_here():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / SEAL, {file.name: hash_file(file) for file in sorted(folder.iterdir())})
        # By their steps: the Trainer's `save_total_limit` goes by a clock, which may be set back.
        rotate_checkpoints(args.output_dir, KEPT)
