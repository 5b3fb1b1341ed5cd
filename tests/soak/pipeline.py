"""`dvc repro` and `dvc exp run` on a small pipeline: killed, damaged, fed with what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import Project
from tests.soak.damage import replace_values, scramble, shift_clock, truncate
from tests.soak.running import Ended, Runner, Running, UndisturbedError, disturb, wait_for_moment

SIGNS = ["models/checkpoints/*/*/trainer/*", "models/.*.partial", "models/onnx/.*.partial"]
MOST_KILLS = 4

VARIANTS: list[dict[str, Any]] = [
    {"train__learning_rate": 3e-5},
    {"train__distillation_weight": 0.5, "train__seed": 7},
    {"calibrate__preset": "performance", "calibrate__rounding": "nearest"},
    {"calibrate__seed": 7, "train__epochs": 0},
    {"finetune__seed": 7},
    {"windows__max_length": 192, "windows__doc_stride": 64},
]
"""Changes to params.yaml, each from another stage on."""

WRONG: dict[str, list[Any]] = {
    "windows__max_length": [0, 15, 9999, "384", 384.5, None],
    "windows__doc_stride": [-1, 500],
    "decoding__max_answer_length": [0, "long", True],
    "finetune__learning_rate": [-1, "fast", float("inf")],
    "calibrate__preset": ["best", None],
    "calibrate__split_channels": [-1, 10**6],
    "train__batch_size": [0, 1.5],
    "train__epochs": [-1, "auto"],
    "infer__output": ["data/input.csv", "params.yaml", ".dvc/output.csv", "data"],
    "infer__sessions": [0, "many", 99],
    "evaluate__provider": ["CUDAExecutionProvider"],
    "benchmark__rows": [[], [0], "many"],
    "dataset__on_bad_answer": ["ignore"],
    "dataset__validation_file": ["data/sample/train.json", "none.json", "data"],
    "model__folder": ["none", "data/sample"],
}


def outputs(lock: str) -> dict[str, str]:
    """The hash of every output in the text of a dvc.lock."""
    stages = yaml.safe_load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


@dataclass
class Pipeline:
    """Copies of a reproduced project.

    Attributes:
        base: the project; not changed.
        undisturbed: outputs and seconds of runs that nobody disturbed, by what was changed.
        cut_off: files of the present copy that were damaged.
    """

    folder: Path
    base: Project
    runner: Runner
    undisturbed: dict[str, tuple[dict[str, str], float]] = field(default_factory=dict)
    cut_off: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.draw, self.report = self.runner.draw, self.runner.report
        self.folder.mkdir()

    def killed(self) -> None:
        """A reproduction that is killed, damaged and gone on with ends as an undisturbed one."""
        change = self.draw.choice(VARIANTS)
        expected, seconds = self._undisturbed(change)
        copy = self._copy()
        copy.set(**change)
        kind = "dvc repro gone on with"
        for _ in range(self.draw.randint(1, MOST_KILLS)):
            running = self.runner.start(["dvc", "repro"], copy.folder, strange=True)
            wait_for_moment(running, self.draw, seconds, copy.folder, SIGNS)
            if self.draw.random() < 0.15:
                self._second(copy, ["dvc", "repro"])
            if not self._disturbed("dvc repro", running, copy):
                break
            self._damage(copy)
        ended = self._last(copy, kind, ["dvc", "repro"])
        if ended is not None:
            self._compare(kind, expected, (copy.folder / "dvc.lock").read_text("utf-8"), ended)
            self._check_whole(kind, copy)
        self.report.count(kind, "went through" if ended is not None else "failed")

    def killed_experiment(self) -> None:
        """An experiment in a folder of its own leaves the workspace, and ends as a reproduction."""
        change = self.draw.choice(VARIANTS)
        expected, seconds = self._undisturbed(change)
        copy = self._copy()
        before = _hashes(copy.folder)
        kind = "dvc exp run --temp"
        assignments = [
            word
            for key, value in change.items()
            for word in ("-S", f"{key.replace('__', '.')}={value}")
        ]
        for number in range(self.draw.randint(1, 2)):
            command = ["dvc", "exp", "run", "--temp", "--name", f"killed-{number}", *assignments]
            running = self.runner.start(command, copy.folder, strange=True)
            wait_for_moment(running, self.draw, seconds, copy.folder, [])
            if not self._disturbed(kind, running, copy):
                break
        command = ["dvc", "exp", "run", "--temp", "--name", "last", *assignments]
        ended = self._last(copy, f"{kind} again", command)
        if ended is not None:
            last = copy.git("for-each-ref", "--format=%(refname)", "refs/exps/*/*/last").strip()
            self._compare(kind, expected, copy.git("show", f"{last}:dvc.lock"), ended)
            self._check_whole(kind, copy)
        self.report.count(f"{kind} again", "went through" if ended is not None else "failed")
        if (after := _hashes(copy.folder)) != before:
            changed = {path for path, _ in before.items() ^ after.items()}
            self.report.fault("lost", kind, f"the workspace changed: {sorted(changed)}")

    def bad_params(self) -> None:
        """Wrong parameters end in one line before any output is removed."""
        copy = self._copy()
        before = _hashes(copy.folder)
        file = copy.folder / "params.yaml"
        right = file.read_bytes()
        for _ in range(3):
            target = "check_params"
            if self.draw.random() < 0.6:
                key = self.draw.choice(list(WRONG))
                value = self.draw.choice(WRONG[key])
                copy.set(**{key: value})
                kind, target = "a wrong parameter", self.draw.choice(["", "infer", "evaluate"])
            else:
                file.write_bytes(scramble(right, self.draw))
                kind = "params.yaml spoilt"
            wrong = file.read_text(encoding="utf-8", errors="replace")
            command = ["dvc", "repro", *([target] if target else [])]
            running = self.runner.start(command, copy.folder, strange=True)
            ended = running.wait()
            outcome = self.runner.judge(kind, ended)
            self.report.count(kind, outcome)
            if outcome == "went through" and kind == "a wrong parameter":
                self.report.fault("unclear", kind, f"{key}={value!r}\n{ended}")
            file.write_bytes(right)
            self._put_back(copy, before, kind, f"{wrong}\n{ended}")

    def bad_data(self) -> None:
        """SQuAD JSON that somebody spoilt is read or refused in one line."""
        copy = self._copy()
        before = _hashes(copy.folder)
        copy.git("checkout", "-q", "-b", "bad")
        train = copy.folder / "data/own.json"
        squad = json.loads((copy.folder / "data/sample/train.json").read_text(encoding="utf-8"))
        squad["data"] = squad["data"][:2]
        for article in squad["data"]:
            article["paragraphs"] = article["paragraphs"][:2]
        good = json.dumps(squad)
        for _ in range(3):
            if self.draw.random() < 0.6:
                spoilt = replace_values(json.loads(good), self.draw, self.draw.randint(1, 3))
                train.write_text(json.dumps(spoilt), encoding="utf-8")
            else:
                train.write_bytes(scramble(good.encode(), self.draw))
            copy.set(
                dataset__name="files",
                dataset__train_file="data/own.json",
                dataset__on_bad_answer=self.draw.choice(["fail", "drop"]),
            )
            ended = self.runner.run(["dvc", "repro", "download_dataset"], copy.folder, strange=True)
            self.report.count("SQuAD JSON spoilt", self.runner.judge("SQuAD JSON spoilt", ended))
            copy.git("checkout", "-q", "--", ".")
            train.unlink()
            self._put_back(copy, before, "SQuAD JSON spoilt", str(ended))

    def bad_inputs_of_stages(self) -> None:
        """What a stage reads, cut off or spoilt, ends in one line."""
        reads = {
            "probe": ["models/base/*"],
            "tokenize_": ["models/base/tok*", "models/windows.json", "data/squad/*.jsonl"],
            "finetune": ["models/base/*", "data/windows/train.arrow"],
            "teach": ["models/fp32/*", "models/teacher.json", "data/windows/train.arrow"],
            "calibrate": ["models/fp32/*", "data/windows/train.arrow"],
            "train": ["models/ptq/*", "data/windows/train.arrow", "data/teacher/*"],
            "export": ["models/qat/*", "models/ptq/*", "data/windows/validation.arrow"],
            "infer": ["models/onnx/qat/*", "data/input.csv"],
            "evaluate": ["models/onnx/ptq/*", "data/squad/*.jsonl", "data/windows/*"],
            "package": ["models/onnx/qat/*", "metrics/evaluation.json"],
            "download_model": ["models/minilm-squad/*"],
        }
        copy = self._copy()
        stage = self.draw.choice(list(reads))
        files = [file for pattern in reads[stage] for file in copy.folder.glob(pattern)]
        file = self.draw.choice(sorted(file for file in files if file.is_file()))
        if self.draw.random() < 0.6 or file.stat().st_size > 10**6:
            truncate(file, self.draw)
        else:
            file.write_bytes(scramble(file.read_bytes(), self.draw))
        before = _hashes(copy.folder)
        kind = f"a spoilt input of {stage}"
        ended = self.runner.run(["python", "-m", f"stages.{stage}"], copy.folder, strange=True)
        outcome = self.runner.judge(f"{kind}: {file.relative_to(copy.folder)}", ended)
        self.report.count(kind, outcome)
        if outcome != "went through" and _hashes(copy.folder) != before:
            self.report.fault("lost", kind, str(ended))

    def _undisturbed(self, change: dict[str, Any]) -> tuple[dict[str, str], float]:
        key = json.dumps(change)
        if key not in self.undisturbed:
            copy = self._copy()
            copy.set(**change)
            begun = time.monotonic()
            ended = self.runner.run(["dvc", "repro"], copy.folder)
            if ended.status != 0:
                raise UndisturbedError(str(ended))
            seconds = time.monotonic() - begun
            self.undisturbed[key] = outputs((copy.folder / "dvc.lock").read_text("utf-8")), seconds
        return self.undisturbed[key]

    def _copy(self) -> Project:
        """A fresh copy of the base; its cache is shared by hard links, which nobody writes to."""
        folder = self.folder / "copy"
        if folder.exists():
            shutil.rmtree(folder)
        self.cut_off.clear()
        cache = self.base.folder / ".dvc/cache"

        def copy(source: str, to: str) -> None:
            if Path(source).is_relative_to(cache):
                os.link(source, to)
            else:
                shutil.copy2(source, to)

        shutil.copytree(self.base.folder, folder, symlinks=True, copy_function=copy)
        project = Project.there(folder)
        project.env = self.base.env
        return project

    def _disturbed(self, kind: str, running: Running, copy: Project) -> bool:
        """Disturb a run and wait for it; False if it had ended by itself before."""
        if running.process.poll() is not None:
            self.runner.judge(kind, running.wait())
            return False
        kind = f"{kind}: {disturb(running, self.draw)}"
        ended = running.wait()
        if self.draw.random() < 0.5:
            self._beside_orphans(running, copy)
        if not running.wait_for_orphans():
            self.report.fault("stuck", kind, running.said())
        ended = Ended(ended.command, ended.status, running.said())
        self.report.count(kind, self.runner.judge(kind, ended, killed=True))
        return True

    def _beside_orphans(self, running: Running, copy: Project) -> None:
        """Run again while stages of a killed run are still at work."""
        if running.members():
            self._second(copy, ["dvc", "repro"], "a run beside an orphan")

    def _second(self, copy: Project, command: list[str], kind: str = "two runs at once") -> None:
        ended = self.runner.run(command, copy.folder)
        self.report.count(kind, self.runner.judge(kind, ended))

    def _damage(self, copy: Project) -> None:
        """Cut off a random file of what a killed run left, or set the clock."""
        patterns = {
            "a checkpoint": "models/checkpoints/**/*",
            "an unfinished output": "**/.*.partial/**/*",
            "a file of DVC's cache": ".dvc/cache/files/md5/*/*",
            "DVC's rwlock": ".dvc/tmp/rwlock",
            "a compiled model": ".cache/openvino/*.blob",
        }
        if self.draw.random() < 0.4:
            return
        kind = self.draw.choice(list(patterns))
        files = sorted(f for f in copy.folder.glob(patterns[kind]) if f.is_file())
        if not files:
            return
        if self.draw.random() < 0.2:
            shift_clock(files, self.draw)
            self.report.count("the clock set", kind)
            return
        file = self.draw.choice(files)
        truncate(file, self.draw)
        self.cut_off.add(file)
        self.report.count("a file cut off", kind)

    def _last(self, copy: Project, kind: str, command: list[str]) -> Ended | None:
        """Run undisturbed; first remove what docs/experiments.md says."""
        ended = self.runner.run(command, copy.folder)
        if "JSON structure is corrupted" in ended.said:
            self.report.count("DVC's rwlock removed", "as docs/experiments.md says")
            (copy.folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)
            ended = self.runner.run(command, copy.folder)
        if self.runner.judge(kind, ended) == "went through":
            return ended
        self.report.fault("lost", kind, str(ended))
        return None

    def _compare(self, kind: str, expected: dict[str, str], lock: str, ended: Ended) -> None:
        found = outputs(lock)
        differ = sorted(path for path, _ in found.items() ^ expected.items())
        if differ:
            self.report.fault("differs", kind, f"{differ}\n{ended}")

    def _check_whole(self, kind: str, copy: Project) -> None:
        """Every file of the cache has the bytes of its name, and nothing unfinished is left."""
        for file in (copy.folder / ".dvc/cache/files/md5").glob("*/*"):
            named = file.parent.name + file.name.removesuffix(".dir")
            if file not in self.cut_off and _md5(file) != named:
                self.report.fault("lost", kind, f"{file}: not what its name says")
        left = [*copy.folder.glob("**/.*.partial"), *copy.folder.glob("**/.*.former")]
        if left:
            self.report.fault("lost", kind, f"left behind: {left}")

    def _put_back(self, copy: Project, before: dict[str, str], kind: str, detail: str) -> None:
        """With right parameters again, `dvc checkout` gives back every output."""
        self.runner.run(["dvc", "checkout", "-q", "--force"], copy.folder)
        after = _hashes(copy.folder)
        if after != before:
            changed = sorted({path for path, _ in before.items() ^ after.items()})
            self.report.fault("lost", kind, f"{changed}\n{detail}")


def _hashes(folder: Path) -> dict[str, str]:
    """Hashes of all outputs, but checkpoints, and of what git tracks beside them."""
    kept = [folder / "dvc.lock", folder / "params.yaml"]
    for name in ("data", "models", "metrics"):
        kept += [file for file in sorted((folder / name).rglob("*")) if file.is_file()]
    skipped = folder / "models/checkpoints"
    return {
        str(file.relative_to(folder)): _md5(file)
        for file in kept
        if not file.is_relative_to(skipped)
    }


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
