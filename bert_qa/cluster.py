"""Tables answered on a cluster: Ray Data gives parts to actors that hold a session each.

Parts are read and written by the actors, so that no row passes through the driver, and no task
beside the actors needs a processor: Ray's own tasks would wait for ever where actors take all of
them (ray-project/ray issue 44687). What a part is and how it is answered is for the modules below.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the driver's own, which are pages

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bert_qa.answering import open_engine
from bert_qa.answering_tables import Asked, answer_in_parts, check_one
from bert_qa.cpu import cores, processors
from bert_qa.errors import UserError, first_sentence
from bert_qa.sessions import memory_of_session, processors_of_session
from bert_qa.tables.parts import Part, Place, Written, read_note, write_part
from bert_qa.tables.table import Table, answered_chunks

if TYPE_CHECKING:
    from bert_qa.engine import Engine

HERE = "auto"
"""The address that stands for a cluster of this machine alone, started for one run."""

OBJECT_STORE_BYTES = 200_000_000
"""Of a cluster that is started here: rows do not pass through it, a model may."""

PATIENCE = 60.0
"""Seconds in which a node must answer."""

FRUITLESS = 3
"""Runs of the pool that may end one after the other, by lost actors, without a part."""


def answer_on_cluster(asked: Asked, address: str) -> None:
    """Answer tables as `bert_qa.answering_tables.answer_tables` does, on a Ray cluster.

    Args:
        address: of a running cluster, or `auto` to start one here.

    Raises:
        UserError: the cluster cannot be used, or an input, the output or the model is refused.
    """
    with _connected(address), _explained():
        answer_in_parts(_absolute(asked), _Cluster())


def _absolute(asked: Asked) -> Asked:
    """With paths that hold in other processes, whose folder is another."""

    def absolute(location: str) -> str:
        slash = "/" if location.endswith("/") else ""
        return location if "://" in location else os.path.abspath(location) + slash

    infer = asked.infer
    return replace(
        asked,
        folder=asked.folder.absolute(),
        cache=asked.cache.absolute(),
        infer=infer.model_copy(
            update={"input": absolute(infer.input), "output": absolute(infer.output)}
        ),
    )


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster while the block runs.

    Raises:
        UserError: there is none at the address, or it is of another version.
    """
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.FATAL,
        "configure_logging": True,
    }
    if address == HERE:
        options |= {
            "num_cpus": cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "address": "local",  # though another cluster runs here
        }
    else:
        _check_address(address)
        options["address"] = address
    heard = signal.getsignal(signal.SIGTERM)
    try:
        with _stderr_silenced():
            ray.init(**options)
    except Exception as error:  # of a dozen types
        raise UserError(f"--cluster: {_not_connected(address, error)}") from None
    finally:
        signal.signal(signal.SIGTERM, heard)  # Ray's own handler ends the process without a word
    logging.getLogger("ray").setLevel(logging.FATAL)
    logging.getLogger("ray.data").setLevel(logging.FATAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Keep what Ray's C++ writes of its own logging from the terminal."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _check_address(address: str) -> None:
    """Refuse what is no address, or where nothing listens: Ray itself takes a minute to."""
    found = re.fullmatch(r"(?:ray://)?([^:/\s]+):(\d{1,5})", address)
    if found is None:
        raise UserError(
            f"--cluster: found {address!r}; give the address of a Ray cluster as HOST:PORT, or"
            f" {HERE} to start one here"
        )
    try:
        socket.create_connection((found[1], int(found[2])), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"--cluster: nothing answers at {address} ({error.strerror or error}); start it there:"
            " ray start --head"
        ) from None


def _not_connected(address: str, error: Exception) -> str:
    theirs = re.search(r"cluster was started with:.*?Ray: (\S+).*?Python: (\S+)", str(error), re.S)
    if theirs is not None:
        return (
            f"{address} runs Ray {theirs[1]} on Python {theirs[2]}, this machine Ray"
            f" {ray.__version__} on {platform.python_version()}; install the same here"
        )
    return f"cannot connect to {address}: {first_sentence(error)}"


@dataclass(frozen=True)
class _Node:
    """A machine of the cluster.

    Attributes:
        memory: bytes that Ray has for actors there.
    """

    id: str
    name: str
    processors: int
    memory: int


def _nodes() -> list[_Node]:
    """The nodes that can hold an actor at all."""
    return [
        _Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("memory", 0)),
        )
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]


def _check_nodes(nodes: Sequence[_Node]) -> None:
    """Ask every node for the versions that it has.

    Raises:
        UserError: a node does not answer, or has other versions than this machine.
    """
    wanted = _versions()

    def versions(names: list[str]) -> dict[str, str]:  # defined here, it travels without a module
        from importlib import metadata

        found = {}
        for name in names:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "none"
        return found

    ask = ray.remote(num_cpus=0, max_retries=0)(versions)
    asked = {
        node: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(list(wanted))
        for node in nodes
    }
    ends = time.monotonic() + PATIENCE
    for node, answer in asked.items():
        try:
            found = ray.get(answer, timeout=max(1.0, ends - time.monotonic()))
        except (RayError, TimeoutError) as error:
            raise UserError(
                f"--cluster: node {node.name} does not answer ({first_sentence(error)}); restart it"
            ) from None
        for name, here in wanted.items():
            if found[name] != here:
                raise UserError(
                    f"--cluster: node {node.name} has {name} {found[name]}, this machine {here};"
                    f" install the same there: pip install 'bert-qa[cluster]'"
                )


def _versions() -> dict[str, str]:
    """Of what answers depend on, or what an actor cannot do without."""
    return {name: version(name) for name in ("bert-qa", "onnxruntime-openvino", "tokenizers")}


class _Cluster:
    """Answers parts on the cluster that is connected; see `bert_qa.answering_tables.Machines`."""

    def check(self, files: Mapping[str, str], asked: Asked) -> dict[str, Table]:
        """Check tables, one a task; of several mistakes the first in their order is told."""

        def check(row: dict[str, Any]) -> dict[str, Any]:
            try:
                table: Table | str = check_one(row["location"], asked)
            except UserError as error:
                table = str(error)
            return {"name": row["name"], "table": table}

        _check_nodes(_nodes())
        rows = [{"name": name, "location": location} for name, location in files.items()]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(check)
        tables = {row["name"]: row["table"] for row in found.iter_rows()}
        wrong = [tables[name] for name in files if isinstance(tables[name], str)]
        if wrong:
            more = f"; and {len(wrong) - 1} more files" if len(wrong) > 1 else ""
            raise UserError(f"{wrong[0]}{more}")
        return {name: tables[name] for name in files}

    def open(self, asked: Asked) -> str:
        """Size the pool, so that every actor finds its processors and its memory.

        Raises:
            UserError: no node has room for a session.
        """
        nodes = _nodes()
        if not nodes:
            raise UserError("--cluster: no node has a processor; start one: ray start")
        self._each = min(processors_of_session(node.processors) for node in nodes)
        self._memory = memory_of_session(asked.folder)
        room = self._room(nodes)
        if not room:
            most = max(node.memory for node in nodes)
            raise UserError(
                f"--cluster: a session takes {self._memory / 1e9:.1f} GB of memory, and the nodes"
                f" have {most / 1e9:.1f} at most; use larger machines"
            )
        sessions = asked.infer.sessions
        if sessions != "auto" and sessions > room:
            print(
                f"--sessions: the cluster has room for {room} of {sessions} now; more start when"
                " nodes are added"
            )
        self._size = room if sessions == "auto" else sessions
        self._first = min(self._size, room)
        files = {file.name: file.read_bytes() for file in asked.folder.iterdir() if file.is_file()}
        self._model = ray.put(files)
        return f"{self._each}"

    def _room(self, nodes: Sequence[_Node]) -> int:
        return sum(
            min(node.processors // self._each, node.memory // self._memory) for node in nodes
        )

    def answer(
        self, place: Place, parts: Sequence[Part], asked: Asked, tell: Callable[[int], object]
    ) -> Iterator[Written]:
        """Answer parts, whatever the order in which they end.

        Ray restarts actors that are lost, and gives their parts to them again. Where it cannot,
        because a node went and no other has room, the pool is sized anew for what is there.
        """
        left = {part.name: part for part in parts}
        fruitless = 0
        while left:
            before = len(left)
            try:
                for name, written in self._run(place, list(left.values()), asked):
                    del left[name]
                    tell(written.rows)
                    yield written
            except RayError as error:
                fruitless = fruitless + 1 if len(left) == before else 0
                if isinstance(error, RayTaskError) or fruitless >= FRUITLESS:
                    raise
                self._first = max(1, min(self._size, self._room(_nodes())))

    def _run(
        self, place: Place, parts: Sequence[Part], asked: Asked
    ) -> Iterator[tuple[str, Written]]:
        size = min(self._size, len(parts))
        rows = [{"part": part} for part in parts]
        answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Session,
            fn_constructor_args=(place, asked, [self._model], self._each),
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=size,
                initial_size=min(size, self._first),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=self._each,
            memory=self._memory,
        )
        for row in answered.iter_rows():
            yield row["name"], row["written"]


class _Session:
    """An actor: one session of the model, on its share of its node's processors."""

    def __init__(self, place: Place, asked: Asked, model: list[Any], each: int) -> None:
        self._place, self._asked = place, asked
        self._share = _pin(each)
        with _model_folder(asked.folder, ray.get(model[0])) as folder:
            self._engine: Engine = open_engine(
                folder,
                asked.windows,
                asked.decoding,
                provider=asked.infer.provider,
                precision=asked.infer.precision,
                cache=asked.cache,
            )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer a part, unless it is done: Ray repeats what ended with a node that it lost."""
        part: Part = row["part"]
        written = read_note(self._place, part)
        if written is None:
            chunks = answered_chunks(
                [(part.table, part.begins)],
                self._engine.answer_chunks,
                escape_formulas=self._asked.infer.escape_formulas,
            )
            written = write_part(self._place, part, chunks)
            print(f"answered {part.name}: {written.rows} rows", flush=True)
        return {"name": part.name, "written": written}


def _pin(each: int) -> int | None:
    """Take a share of this node's processors that no other session has.

    Returns:
        A descriptor that holds the share for as long as this process lives; None where there are
        more sessions than shares, so that each computes on all processors.
    """
    folder = Path(tempfile.gettempdir()) / f"bert-qa-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    numbers = processors()
    for at in range(0, len(numbers) // each * each, each):
        descriptor = os.open(folder / f"processors-{numbers[at]}", os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.sched_setaffinity(0, numbers[at : at + each])
            return descriptor
        os.close(descriptor)
    return None


@contextmanager
def _model_folder(folder: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """The model's folder, here if it is there, or from its files while the block runs."""
    if all(
        (folder / name).is_file() and (folder / name).read_bytes() == content
        for name, content in files.items()
    ):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bert-qa-") as temporary:
        for name, content in files.items():
            (Path(temporary) / name).write_bytes(content)
        yield Path(temporary)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what Ray makes of an actor's error into the one line that the actor had for it."""
    try:
        yield
    except RayError as error:
        cause: BaseException | None = error
        for _ in range(10):
            if isinstance(cause, UserError) or cause is None:
                break
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        found = re.findall(r"UserError: (.+)", str(error))
        if found:
            raise UserError(found[-1]) from None
        raise UserError(
            f"--cluster: {type(error).__name__}: {' '.join(str(error).split())[:300]}; run the same"
            " command again, which answers what is missing"
        ) from None
