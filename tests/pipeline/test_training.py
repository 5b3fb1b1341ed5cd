"""Training: what is learned, what the teacher adds, and a run that is cut off and resumed."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, trainer_utils

from bert_qa.checkpoints import load_model, torch_forward
from bert_qa.errors import UserError
from bert_qa.logits import run_windows
from bert_qa.params import Finetune
from bert_qa.squad import read_questions
from bert_qa.training import SEAL, _Collator, _LengthGroupedSampler, _TrainingSet, train, use_bf16
from bert_qa.windows import LabelledWindows, label_windows, make_windows
from tests.conftest import ROOT

PARAMS = Finetune(
    processes=1,
    epochs=2,
    max_steps=None,
    learning_rate=1e-3,
    batch_size=8,
    warmup_ratio=0.1,
    weight_decay=0.01,
    precision="auto",
    save_steps=3,
    logging_steps=1,
    seed=3,
)


@pytest.fixture(scope="module")
def windows(tokenizer: Any) -> LabelledWindows:
    examples = read_questions(ROOT / "data/sample/train.json")[:40]
    made = make_windows(examples, tokenizer, max_length=128, doc_stride=32, max_question_length=32)
    return label_windows(made[:40], examples)


def trained(
    folder: Path, tiny_model: Path, windows: LabelledWindows, **more: Any
) -> dict[str, torch.Tensor]:
    model, has_head = load_model(tiny_model, dropout=True)
    assert has_head
    options = {"epochs": 2.0, "checkpoints": folder / "checkpoints/x", "logs": folder / "logs"}
    train(model, windows, PARAMS, **{**options, **more})
    return copy.deepcopy(model.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def logs(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in (folder / "logs").rglob("*")
        if file.is_file()
    }


@pytest.mark.fault(
    "training that is killed",
    sees="it goes on from its last checkpoint; the model is the same, byte for byte",
)
@pytest.mark.parametrize("killed_at", [4, 7])
def test_a_run_cut_off_ends_as_an_uninterrupted_one(
    tmp_path: Path,
    tiny_model: Path,
    windows: LabelledWindows,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    """5 steps an epoch, a checkpoint every 3: cut off in the first epoch and in the second."""
    whole = trained(tmp_path / "whole", tiny_model, windows)
    step = Trainer.training_step

    def killed(self: Trainer, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step == killed_at:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "cut", tiny_model, windows)
    kept = tmp_path / "cut/checkpoints/x/trainer"
    assert {path.name for path in kept.iterdir()} == {
        f"checkpoint-{step}" for step in range(3, killed_at, 3)
    }
    # A checkpoint that was being written when the process died is not one.
    (kept / "checkpoint-9").mkdir()

    resumed = trained(tmp_path / "cut", tiny_model, windows)
    assert same(whole, resumed)
    assert logs(tmp_path / "whole") == logs(tmp_path / "cut")
    untrained, _ = load_model(tiny_model, dropout=True)
    assert not same(whole, untrained.state_dict())


@pytest.fixture(scope="module")
def cut(tiny_model: Path, windows: LabelledWindows, tmp_path_factory: Any) -> Path:
    """What is left of a run that was killed after its second checkpoint, at step 6."""
    folder: Path = tmp_path_factory.mktemp("cut")
    step = Trainer.training_step

    def killed(self: Trainer, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "training_step", killed)
        trained(folder, tiny_model, windows)
    return folder


@pytest.fixture(scope="module")
def uncut(tiny_model: Path, windows: LabelledWindows, tmp_path_factory: Any) -> Any:
    """What the same run learns when nothing happens to it."""
    return trained(tmp_path_factory.mktemp("uncut"), tiny_model, windows)


@pytest.mark.fault(
    "{name} of the last checkpoint, {how}",
    sees="training goes on from the checkpoint before; the model is the same",
)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", SEAL]
)
@pytest.mark.parametrize("how", ["cut off", "zeros", "gone"])
def test_a_checkpoint_that_is_not_whole_leaves_the_one_before(
    tmp_path: Path,
    tiny_model: Path,
    windows: LabelledWindows,
    cut: Path,
    uncut: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    name: str,
    how: str,
) -> None:
    """As a power cut, or a disk that was full, may leave it."""
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "checkpoints/x/trainer/checkpoint-6" / name
    size = file.stat().st_size
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: size // 2] + b"\0" * (size // 2 * (how == "zeros")))
    assert same(uncut, trained(tmp_path, tiny_model, windows))
    assert "resuming from step 3" in capsys.readouterr().out


@pytest.mark.fault("no checkpoint that is whole", sees="training begins afresh")
def test_with_no_whole_checkpoint_training_begins_afresh(
    tmp_path: Path,
    tiny_model: Path,
    windows: LabelledWindows,
    cut: Path,
    uncut: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    for checkpoint in (tmp_path / "checkpoints/x/trainer").iterdir():
        (checkpoint / "model.safetensors").write_bytes(b"")
    assert same(uncut, trained(tmp_path, tiny_model, windows))
    assert "resuming" not in capsys.readouterr().out


@pytest.mark.fault(
    "a clock that is set back during training", sees="the newest checkpoints are kept"
)
def test_the_newest_checkpoints_are_kept_when_the_clock_is_set_back(
    tmp_path: Path,
    tiny_model: Path,
    windows: LabelledWindows,
    cut: Path,
    uncut: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    kept = tmp_path / "checkpoints/x/trainer"
    for checkpoint in kept.iterdir():
        os.utime(checkpoint, (2**32, 2**32))  # in the year 2106
    names: list[set[str]] = []
    rotate = trainer_utils.rotate_checkpoints

    def watched(*arguments: Any, **named: Any) -> None:
        rotate(*arguments, **named)
        names.append({path.name for path in kept.iterdir()})

    monkeypatch.setattr("bert_qa.training.rotate_checkpoints", watched)
    assert same(uncut, trained(tmp_path, tiny_model, windows))
    assert names == [{"checkpoint-6", "checkpoint-9"}]


def test_the_log_holds_the_training_and_nothing_of_the_clock(
    tmp_path: Path, tiny_model: Path, windows: LabelledWindows
) -> None:
    trained(tmp_path, tiny_model, windows)
    written = logs(tmp_path)
    assert set(written) == {
        "logs/metrics.json",
        "logs/plots/metrics/loss.tsv",
        "logs/plots/metrics/learning_rate.tsv",
    }
    lines = written["logs/plots/metrics/loss.tsv"].splitlines()
    assert lines[0] == "step\tloss"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(i) for i in range(1, 11)]
    assert float(lines[-1].split("\t")[1]) < float(lines[1].split("\t")[1])


def test_a_training_of_no_steps_leaves_the_plots_of_one_without_points(
    tmp_path: Path, tiny_model: Path, windows: LabelledWindows
) -> None:
    trained(tmp_path / "one", tiny_model, windows)
    untrained, _ = load_model(tiny_model, dropout=True)
    assert same(untrained.state_dict(), trained(tmp_path / "none", tiny_model, windows, epochs=0.0))
    assert not (tmp_path / "none/checkpoints").exists()
    one, none = logs(tmp_path / "one"), logs(tmp_path / "none")
    assert none.keys() == one.keys()
    for name in (name for name in one if name.endswith(".tsv")):
        assert none[name].splitlines() == one[name].splitlines()[:1]


def test_a_student_follows_its_teacher(
    tmp_path: Path, tiny_model: Path, windows: LabelledWindows
) -> None:
    """With the whole weight on the teacher, the student moves towards the teacher's logits."""
    model, _ = load_model(tiny_model, dropout=False)
    torch.manual_seed(1)
    with torch.no_grad():
        model.qa_outputs.weight.normal_(std=2.0)  # a teacher that differs in its head
    teacher = run_windows(torch_forward(model), windows.windows)

    def distance(state: dict[str, torch.Tensor]) -> float:
        model.load_state_dict(state)
        ours = run_windows(torch_forward(model), windows.windows)
        divergence = 0.0
        for a, b in zip(ours, teacher, strict=True):
            p = torch.tensor(b.start).log_softmax(0)
            q = torch.tensor(a.start).log_softmax(0)
            divergence += float((p.exp() * (p - q)).sum())
        return divergence / len(ours)

    untrained, _ = load_model(tiny_model, dropout=False)
    before = distance(untrained.state_dict())
    after = distance(
        trained(
            tmp_path,
            tiny_model,
            windows,
            epochs=8.0,
            teacher=teacher,
            distillation_weight=1.0,
            distillation_temperature=2.0,
        )
    )
    assert after < 0.8 * before


def test_what_is_taught_alone_is_without_the_answers(
    tmp_path: Path, tiny_model: Path, windows: LabelledWindows
) -> None:
    """With the whole weight on the teacher the answers are not used: others change nothing."""
    model, _ = load_model(tiny_model, dropout=False)
    teacher = run_windows(torch_forward(model), windows.windows)
    others = LabelledWindows(windows.windows, windows.starts * 0, windows.ends * 0)
    assert windows.starts.any()
    options: dict[str, Any] = {"teacher": teacher, "distillation_temperature": 2.0}
    for weight, alike in ((1.0, True), (0.5, False)):
        options["distillation_weight"] = weight
        one, two = (
            trained(tmp_path / f"{weight}" / name, tiny_model, labelled, **options)
            for name, labelled in (("one", windows), ("two", others))
        )
        assert same(one, two) is alike


def test_batches_hold_answers_and_teacher_as_they_are_wanted(
    tiny_model: Path, windows: LabelledWindows
) -> None:
    model, _ = load_model(tiny_model, dropout=False)
    teacher = run_windows(torch_forward(model), windows.windows)
    inputs = {"input_ids", "attention_mask", "token_type_ids"}
    answers = {"start_positions", "end_positions"}
    logits = {"teacher_start_logits", "teacher_end_logits"}
    for taught, with_answers in ((teacher, False), (teacher, True), (None, True)):
        items = _TrainingSet(windows, taught)
        batch = _Collator(0, with_answers)([items[i] for i in range(4)])
        assert batch.keys() == {"counted"} | inputs | (answers if with_answers else set()) | (
            logits if taught else set()
        )
        if with_answers:
            assert batch["start_positions"].tolist() == windows.starts[:4].tolist()
            assert batch["end_positions"].tolist() == windows.ends[:4].tolist()
        for row in range(4 if taught else 0):
            padded, length = batch["teacher_end_logits"][row], len(windows.windows[row])
            assert padded[:length].tolist() == teacher[row].end.tolist()
            assert not padded[length:].any()


def test_training_leaves_other_folders_and_its_own_alone(
    tmp_path: Path, tiny_model: Path, windows: LabelledWindows
) -> None:
    """What is removed, and when, is for `bert_qa.unfinished` to say."""
    other = tmp_path / "checkpoints/other/file"
    other.parent.mkdir(parents=True)
    other.write_text("x")
    trained(tmp_path, tiny_model, windows)
    assert other.read_text() == "x"
    assert (tmp_path / "checkpoints/x/trainer/checkpoint-9").is_dir()


@pytest.mark.fault("training in BF16 on a processor without it")
def test_bf16_is_refused_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("bert_qa.checkpoints.has_bf16", lambda: False)
    auto, bf16, fp32 = (
        PARAMS.model_copy(update={"precision": name}) for name in ("auto", "bf16", "fp32")
    )
    assert not use_bf16(auto)
    with pytest.raises(UserError, match=r"finetune\.precision: found 'bf16'.* set fp32 or auto"):
        use_bf16(bf16)
    monkeypatch.setattr("bert_qa.checkpoints.has_bf16", lambda: True)
    assert use_bf16(auto)
    assert use_bf16(bf16)
    assert not use_bf16(fp32)


def test_batches_are_of_like_length_and_change_with_the_epoch() -> None:
    lengths = [i % 50 + 1 for i in range(400)]
    sampler = _LengthGroupedSampler(lengths, 8, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(400))
    again = _LengthGroupedSampler(lengths, 8, seed=1)
    again.set_epoch(1)
    assert list(again) == second
    spread = [
        max(lengths[i] for i in first[at : at + 8]) - min(lengths[i] for i in first[at : at + 8])
        for at in range(0, 400, 8)
    ]
    assert sum(spread) / len(spread) < 5  # about 43 without grouping
