"""Processes that train together: started by torch's launcher, on one machine or several.

On one machine a stage starts them; on several, each machine runs the same command and they meet at
the address in the environment that torch's and Azure ML's launchers use. Knows nothing of training.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed

from bert_qa.cpu import cores
from bert_qa.errors import UserError, first_sentence, user_message

Processes = int | Literal["gpu"]
"""How many in all; `gpu` for one a GPU."""

MACHINES, MACHINE = "WORLD_SIZE", "RANK"
ADDRESS, PORT = "MASTER_ADDR", "MASTER_PORT"
"""How many machines there are, which this one is, and where the first can be reached."""

FIRST = "first.json"

LOST = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Connection refused")
"""What the others say where a process went, or a machine."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What torch's launcher handles, and leaves handled."""

MEETING_SECONDS = 1800
"""How long a machine waits for the others, which may still calibrate."""


@dataclass(frozen=True)
class _Machines:
    """The machines that train together, and which this is."""

    count: int
    this: int
    address: str


def launch(processes: Processes, key: str, function: Callable[..., None], **arguments: Any) -> int:
    """Call a function in processes that train together; with one, in this process.

    It is called with `arguments` in each, where `torch.distributed` stands for what they share.

    Args:
        processes: how many on all machines together.
        key: the parameter that says so, for errors.
        function: at the top of a module; what it raises as a `UserError` is raised here.

    Returns:
        How many processes there were on this machine.

    Raises:
        UserError: they cannot be started here, or one of them was ended.
    """
    machines = _machines()
    here = 1 if processes == 1 else _here(processes, key, machines)
    if processes == 1 or machines.count * here == 1:
        function(**arguments)
        return here
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # The processes inherit these. Without them accelerate and torch print warnings.
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // here))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    alone = machines.count == 1
    config = LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=here,
        run_id=f"bert-qa-{key}",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else machines.address,
        rdzv_configs={"rank": machines.this, "timeout": MEETING_SECONDS},
        local_addr="localhost" if alone else None,
        max_restarts=0,
        start_method="spawn",
    )
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    heard: signal.Signals | None = None
    with tempfile.TemporaryDirectory() as errors:
        try:
            elastic_launch(config, _call)(errors, here, function, arguments)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            if failure.exitcode >= 0:
                _raise_first(Path(errors), key)
            raise UserError(_ended(error, key)) from None
        except (distributed.DistNetworkError, distributed.DistStoreError) as error:
            raise UserError(
                f"{key}: the machines did not meet at {machines.address}"
                f" ({first_sentence(error)}); start the same command on all {machines.count}"
            ) from None
        except SignalException as stopped:
            heard = stopped.sigval
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if heard is not None:
        signal.raise_signal(heard)  # as if the launcher had not heard it
    return here


@contextmanager
def own_group() -> Iterator[None]:
    """Let accelerate find the processes that `launch` started, and otherwise no other machine."""
    if _launched():
        yield
        return
    names = (MACHINES, MACHINE, ADDRESS, PORT, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _machines() -> _Machines:
    for name in (MACHINES, MACHINE, PORT):
        if not os.environ.get(name, "0").isdecimal():
            raise UserError(f"{name}: found {os.environ[name]!r}; set a number, or unset it")
    count = int(os.environ.get(MACHINES, "1"))
    if count <= 1:
        return _Machines(1, 0, "")
    missing = [name for name in (MACHINE, ADDRESS, PORT) if name not in os.environ]
    if missing:
        raise UserError(
            f"{MACHINES}: found {count} in the environment without {missing[0]}; set {MACHINE},"
            f" {ADDRESS} and {PORT} on every machine, or unset {MACHINES}"
        )
    address = f"{os.environ[ADDRESS]}:{os.environ[PORT]}"
    return _Machines(count, int(os.environ[MACHINE]), address)


def _here(processes: Processes, key: str, machines: _Machines) -> int:
    """How many processes are for this machine."""
    if processes == "gpu":
        found = torch.cuda.device_count()
        if not found:
            raise UserError(
                f"params.yaml: {key}: found 'gpu'; torch sees no GPU here: set a number"
            )
        return found
    if processes % machines.count:
        raise UserError(
            f"params.yaml: {key}: found {processes}; {machines.count} machines cannot share them"
            " equally: set a multiple"
        )
    here = processes // machines.count
    most = torch.cuda.device_count() or cores()
    if here > most:
        kind = "GPUs" if torch.cuda.is_available() else "processors"
        raise UserError(
            f"params.yaml: {key}: found {processes}; this machine has {most} {kind}: set as many or"
            " fewer"
        )
    return here


def _call(errors: str, here: int, function: Callable[..., None], arguments: dict[str, Any]) -> None:
    """A process: joins the others, and calls the function."""
    gc.enable()  # turned off by the first lines of the script, which this process imported
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(max(1, cores() // here))
    try:
        function(**arguments)
        if distributed.is_initialized():
            distributed.barrier()  # or the first to end takes the meeting place with it
            distributed.destroy_process_group()
    except Exception as error:
        # Of several the first: that a process went makes errors of another kind in the others.
        with suppress(FileExistsError), (Path(errors) / FIRST).open("x", encoding="utf-8") as out:
            message = user_message(error)
            lost = isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)
            json.dump([message, "" if message or lost else traceback.format_exc()], out)
        sys.exit(1)


def _raise_first(errors: Path, key: str) -> None:
    """Raise the error that a process found, if one did: a person's mistake, or a defect of ours."""
    file = errors / FIRST
    if file.exists():
        message, text = json.loads(file.read_text(encoding="utf-8"))
        if message:
            raise UserError(message)
        if text:
            raise RuntimeError(f"in a process that was launched:\n{text}")
        raise UserError(
            f"{key.partition('.')[0]}: a process of those that train together was lost; run the"
            " same command again, which goes on from the last checkpoint"
        )


def _ended(error: Any, key: str) -> str:
    """What to say of a process that ended."""
    rank, failure = error.get_first_failure()
    how = f"ended with {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"was ended by {failure.signal_name()}"
    return (
        f"{key.partition('.')[0]}: process {rank} of those that train together {how}; run the same"
        " command again, which goes on from the last checkpoint"
    )


def world_size() -> int:
    """How many processes train together, on all machines."""
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def processes_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _launched() else 1


def place_here() -> int:
    """Which of the processes of this machine this is, from 0."""
    return int(os.environ["LOCAL_RANK"]) if _launched() else 0


def first_here() -> bool:
    """Whether this is the process that writes the files of this machine."""
    return place_here() == 0


def _launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
