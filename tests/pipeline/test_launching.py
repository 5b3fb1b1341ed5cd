"""Training in several processes: the model of one, the same bytes twice, whatever is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given
from safetensors.numpy import load_file

from bert_qa.errors import UserError
from bert_qa.launching import launch
from bert_qa.training import NOT_COUNTED, _LengthGroupedSampler, _ShareSampler
from tests.conftest import Project

TRAINING = {
    "train__max_steps": 6,
    "train__save_steps": 2,
    "train__batch_size": 8,
    "train__learning_rate": 5e-6,
    "train__distillation_weight": 0.5,  # by the teacher alone there is next to nothing to learn
}


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    share=st.integers(1, 5),
    together=st.integers(2, 5),
    epoch=st.integers(0, 3),
)
def test_the_shares_of_each_batch_are_the_batch(
    lengths: list[int], share: int, together: int, epoch: int
) -> None:
    sampler = _LengthGroupedSampler(lengths, share * together, seed=7)
    sampler.set_epoch(epoch)
    order = [*sampler]
    shares = [
        [*_ShareSampler(sampler, share * together, rank, together)] for rank in range(together)
    ]
    assert len({len(batches) for batches in shares}) == 1  # all take as many steps
    seen: Counter[int] = Counter()
    for step, parts in enumerate(zip(*shares, strict=True)):
        batch = order[step * share * together : (step + 1) * share * together]
        counted = [window for part in parts for window in part if window > NOT_COUNTED]
        assert sorted(counted) == sorted(batch)
        assert all(part for part in parts)
        assert all(len(part) <= share for part in parts)
        seen.update(counted)
    assert seen == Counter(range(len(lengths)))  # none is dropped, none is repeated


@pytest.fixture(scope="module")
def start(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The reproduced project, with training that leaves its mark."""
    folder = tmp_path_factory.mktemp("launching") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    project = Project.there(folder)
    project.set(**TRAINING)
    project.commit("more training")
    return project


def trained(start: Project, folder: Path, processes: int) -> Project:
    """A copy in which the stages that processes share have run."""
    shutil.copytree(start.folder, folder, symlinks=True)
    project = Project.there(folder)
    project.env.pop("OMP_NUM_THREADS", None)
    project.set(train__processes=processes)
    project.check("dvc", "repro", "train")
    project.commit("trained")
    return project


@pytest.fixture(scope="module")
def one(start: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return trained(start, tmp_path_factory.mktemp("one") / "project", 1)


@pytest.fixture(scope="module")
def two(start: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return trained(start, tmp_path_factory.mktemp("two") / "project", 2)


def losses(project: Project) -> Any:
    file = project.folder / "metrics/train/plots/metrics/loss.tsv"
    return pd.read_csv(file, sep="\t")["loss"].to_numpy()


def test_two_processes_train_the_model_of_one(one: Project, two: Project) -> None:
    np.testing.assert_allclose(losses(two), losses(one), rtol=0.1)
    ours, theirs, before = (
        load_file(folder / "model.safetensors")
        for folder in (
            two.folder / "models/qat",
            one.folder / "models/qat",
            one.folder / "models/ptq",
        )
    )
    moved = apart = 0.0
    for name, tensor in ours.items():
        moved += float(((theirs[name] - before[name]) ** 2).sum())
        apart += float(((theirs[name] - tensor) ** 2).sum())
    assert 0 < apart < 0.01 * moved  # Adam turns the last digits of small gradients into steps
    logs = (two.folder / "metrics/train/metrics.json").read_text(encoding="utf-8")
    assert json.loads(logs)["step"] == 6


@pytest.mark.fault(
    "a process of several that train together, killed",
    sees="one line that names it; the same command goes on, and ends with the same bytes",
)
def test_a_killed_process_is_named_and_training_goes_on(two: Project) -> None:
    wanted = (two.folder / "models/qat/model.safetensors").read_bytes()
    running = subprocess.Popen(
        ["python", "-m", "stages.train"],
        cwd=two.folder,
        env=two.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(two.folder, running)
    ranks = sorted(
        (
            child
            for child in psutil.Process(running.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ),
        key=lambda child: child.pid,
    )
    ranks[1].kill()
    _, error = running.communicate(timeout=120)
    assert running.returncode == 1
    # Whichever is noticed first: that it was ended, or that another lost its connection to it.
    assert re.fullmatch(
        r"error: train: (process 1 of those that train together was ended by SIGKILL|a process of"
        r" those that train together was lost); run the same command again, which goes on from the"
        r" last checkpoint",
        error.splitlines()[-1],
    )
    assert "Traceback" not in error
    assert (two.folder / "models/qat/model.safetensors").read_bytes() == wanted  # the former
    shutil.rmtree(two.folder / "models/qat")
    assert "resuming from step" in two.check("python", "-m", "stages.train")
    assert two.git("status", "--porcelain") == ""  # nor do dvc.lock and the plots differ
    assert (two.folder / "models/qat/model.safetensors").read_bytes() == wanted
    assert not list((two.folder / "models/checkpoints/train").iterdir())


def wait_for_checkpoint(folder: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("models/checkpoints/train/*/trainer/checkpoint-*/hashes.json")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_machines_train_one_model(two: Project, start: Project, tmp_path: Path) -> None:
    """Each in a project of its own, on a processor of its own, at an address of loopback."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a processor for each is needed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for rank, processor in enumerate(map(str, sorted(os.sched_getaffinity(0))[:2])):
        shutil.copytree(two.folder, tmp_path / str(rank), symlinks=True)
        project = Project.there(tmp_path / str(rank))
        shutil.rmtree(project.folder / "models/qat")
        project.env |= {
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        machines.append(
            (
                project,
                subprocess.Popen(
                    ["taskset", "-c", processor, "python", "-m", "stages.train"],
                    cwd=project.folder,
                    env=project.env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                ),
            )
        )
    wanted = (two.folder / "models/qat/model.safetensors").read_bytes()
    for project, running in machines:
        said, _ = running.communicate(timeout=180)
        assert running.returncode == 0, said
        assert (project.folder / "models/qat/model.safetensors").read_bytes() == wanted


NNCF_STEPS = """
import torch
import torch.distributed as together
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from bert_qa.quantization.nncf_model import load_quantized

together.init_process_group("gloo")
torch.manual_seed(together.get_rank())  # each process has windows of its own
model = load_quantized(Path("models/ptq"))
before = sum(p.detach().double().abs().sum() for p in model.parameters())
shared = DistributedDataParallel(model)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
for _ in range(2):
    ids = torch.randint(1000, 2000, (2, 32))
    fields = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    logits = shared(input_ids=ids, **fields)
    (logits.start_logits**2 + logits.end_logits**2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
after = sum(p.detach().double().abs().sum() for p in model.parameters())
print("weights", float(before) != float(after), float(after).hex(), flush=True)
"""


def test_nncf_s_own_quantizers_train_in_processes_too(reproduced: Project, tmp_path: Path) -> None:
    """The stage trains with this project's, which are faster; both end alike in all processes."""
    (tmp_path / "steps.py").write_text(NNCF_STEPS)
    launcher = ("python", "-m", "torch.distributed.run", "--nproc-per-node", "2")
    said = reproduced.check(*launcher, str(tmp_path / "steps.py"))
    first, second = re.findall(r"weights (\w+) (\S+)", said)
    assert first == second
    assert first[0] == "True"


def test_one_process_is_alone_whatever_other_machines_there_are(one: Project) -> None:
    """Azure ML's launcher says of itself that it is there, of one machine too."""
    wanted = (one.folder / "models/qat/model.safetensors").read_bytes()
    others = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0"}
    one.env |= others | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    one.check("python", "-m", "stages.train")
    assert (one.folder / "models/qat/model.safetensors").read_bytes() == wanted


@pytest.fixture
def settings() -> Iterator[None]:
    """The environment as it is; `launch` adds to it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def nothing() -> None:
    """What `launch` is not to come to."""
    raise AssertionError


@pytest.mark.fault("`train.processes` that this machine does not have: {processes}")
@pytest.mark.parametrize(
    ("processes", "environment", "says"),
    [
        (1000, {}, r"train\.processes: found 1000; this machine has \d+ processors: set as many"),
        ("gpu", {}, r"train\.processes: found 'gpu'; torch sees no GPU here: set a number"),
        (
            3,
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            r"found 3; 2 machines cannot share them equally: set a multiple",
        ),
        (2, {"WORLD_SIZE": "2"}, r"WORLD_SIZE: found 2 in the environment without RANK; set RANK,"),
        (2, {"WORLD_SIZE": "two"}, r"WORLD_SIZE: found 'two'; set a number, or unset it"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_processes_that_cannot_be_started_are_one_line(
    processes: Any, environment: dict[str, str], says: str
) -> None:
    import torch

    if processes == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    os.environ.update(environment)
    with pytest.raises(UserError, match=says):
        launch(processes, "train.processes", nothing)


@pytest.mark.fault("a batch that several processes cannot share equally")
def test_a_mistake_that_a_process_finds_is_one_line(start: Project, tmp_path: Path) -> None:
    shutil.copytree(start.folder, tmp_path / "project", symlinks=True)
    project = Project.there(tmp_path / "project")
    project.set(train__processes=2, train__batch_size=7)
    done = project.run("python", "-m", "stages.train")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: params.yaml: train.batch_size: found 7, which 2 processes cannot share equally; set"
        " a multiple"
    ]
