"""`bert-qa answer --cluster` on real Ray: the bytes of one machine, through kills of every kind."""

from __future__ import annotations

import csv
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert_qa.params import Decoding, Windows
from bert_qa.released_parameters import Released, write_released
from bert_qa.squad import read_questions
from tests.azurite import Azurite
from tests.conftest import ROOT

pytest.importorskip("ray", reason="no Ray: pip install 'bert-qa[cluster]'")

COMMAND = Path(sys.executable).parent / "bert-qa"
RAY = Path(sys.executable).parent / "ray"
TOKEN = secrets.token_hex(16)
ROWS = 24_000
"""A dozen parts."""

RELEASED = Released(
    windows=Windows(max_length=96, doc_stride=16, max_question_length=32),
    decoding=Decoding(
        max_answer_length=15, version_2_with_negative=False, null_score_diff_threshold=0.0
    ),
)


@pytest.fixture(scope="module")
def model(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "model"
    shutil.copytree(tiny_onnx, folder)
    write_released(folder, RELEASED)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of the sample over and over, on the first words of their contexts."""
    examples = read_questions(ROOT / "data/sample/validation.json")
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("table") / "questions.csv"
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["Context", "Question", "Number"])
        for number in range(ROWS):
            example = draw.choice(examples)
            context = " ".join(example.context.split()[: draw.randint(5, 60)])
            writer.writerow([context, example.question, number])
    return path


def environment(temporary: Path) -> dict[str, str]:
    """Of a run with Ray's files, and its logs, in a folder of its own."""
    # Ray's sockets lie there, and the name of a socket has at most 107 characters.
    ours = {"RAY_TMPDIR": str(temporary), "XDG_CACHE_HOME": str(temporary)}
    return {**os.environ, **ours, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@pytest.fixture
def temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bq"))
    yield folder
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(
    model: Path, table: Path, tmp_path: Path, temporary: Path
) -> Callable[..., subprocess.Popen[str]]:
    def start(output: str = "answers.csv", *more: str, source: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, "answer", source or table, "-o", output, "--model", model, *more],
            cwd=tmp_path,
            env=environment(temporary),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def one_machine(model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one machine answers, with sessions of one processor each, as the actors have."""
    output = tmp_path_factory.mktemp("one") / "answers.csv"
    sessions = str(len(os.sched_getaffinity(0)))
    subprocess.run(
        [COMMAND, "answer", table, "-o", output, "--model", model, "--sessions", sessions],
        check=True,
        capture_output=True,
    )
    return output.read_bytes()


def ended(running: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Its standard output and error, without the lines of progress."""
    out, error = running.communicate(timeout=240)
    lines = [line for line in error.splitlines() if " so far, " not in line]
    assert running.returncode == status, (out, error)
    return out, "\n".join(lines)


def answered(temporary: Path) -> list[str]:
    """The parts that actors say they answered, in Ray's logs of all its runs."""
    return [
        name
        for log in temporary.rglob("worker-*.out")
        for name in re.findall(r"^answered (\S+): ", log.read_text(errors="replace"), re.M)
    ]


def notes(folder: Path) -> int:
    return len(list(folder.glob(".answers.csv.partial/_unfinished/*/0*")))


def wait_for_parts(folder: Path, count: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while notes(folder) < count:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def actors(temporary: Path) -> list[psutil.Process]:
    """The processes of sessions, of the cluster whose files lie in a folder."""
    raylets = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(temporary) in part for part in process.info["cmdline"] or ())
    ]
    children = {child for raylet in raylets for child in raylet.children(recursive=True)}
    return [child for child in children if "Session" in " ".join(child.cmdline())]


def test_two_actors_give_the_bytes_of_one_machine(
    start: Start, one_machine: bytes, tmp_path: Path, temporary: Path
) -> None:
    out, error = ended(start("answers.csv", "--cluster", "auto"))
    assert (tmp_path / "answers.csv").read_bytes() == one_machine
    assert re.fullmatch(rf"\S+answers.csv: {ROWS} rows\n(\S+ \d+ cells begin as .*\n)?", out)
    assert error == ""  # nothing of Ray's
    parts = answered(temporary)
    assert len(parts) == len(set(parts)) == 12
    assert [file.name for file in tmp_path.iterdir()] == ["answers.csv"]


def test_a_killed_actor_is_replaced(
    start: Start, one_machine: bytes, tmp_path: Path, temporary: Path
) -> None:
    running = start("answers.csv", "--cluster", "auto")
    wait_for_parts(tmp_path, 2, running)
    killed = actors(temporary)[0]
    killed.kill()
    ended(running)
    assert (tmp_path / "answers.csv").read_bytes() == one_machine
    parts = answered(temporary)
    assert len(parts) == len(set(parts)) == 12


def test_a_killed_driver_goes_on(
    start: Start, one_machine: bytes, tmp_path: Path, temporary: Path
) -> None:
    running = start("answers.csv", "--cluster", "auto")
    wait_for_parts(tmp_path, 3, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    for actor in actors(temporary):
        actor.kill()
    done = notes(tmp_path)
    out, _ = ended(start("answers.csv", "--cluster", "auto"))
    assert re.search(rf"going on with \d+ of {ROWS} rows", out)
    assert (tmp_path / "answers.csv").read_bytes() == one_machine
    parts = answered(temporary)
    assert done >= 3
    assert len(parts) == len(set(parts)) == 12


class Node:
    """A node of a cluster on this machine, with one processor."""

    def __init__(self, temporary: Path, *arguments: str, ray: Path = RAY) -> None:
        # Each with the process that `--block` keeps: what `ray start` begins ends with it.
        self.process = subprocess.Popen(
            [ray, "start", *arguments, "--num-cpus=1", "--memory=2000000000", "--block"],
            env=environment(temporary),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                return
        raise AssertionError("".join(said))

    @classmethod
    def head(cls, temporary: Path) -> tuple[Node, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ("--include-dashboard=false", "--object-store-memory=100000000")
        address = f"127.0.0.1:{port}"
        node = cls(
            temporary,
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            f"--temp-dir={temporary}",
            *options,
        )
        return node, address

    @classmethod
    def worker(cls, temporary: Path, address: str, ray: Path = RAY) -> Node:
        return cls(
            temporary,
            f"--address={address}",
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=100000000",
            ray=ray,
        )

    def kill(self) -> None:
        """End all that the node is, as a machine that is taken away."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            process.kill()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def cluster(temporary: Path) -> Iterator[tuple[Node, str]]:
    head, address = Node.head(temporary)
    yield head, address
    if head.process.poll() is None:
        head.kill()


def test_a_lost_node_is_done_without(
    start: Start,
    cluster: tuple[Node, str],
    one_machine: bytes,
    tmp_path: Path,
    temporary: Path,
) -> None:
    _, address = cluster
    second = Node.worker(temporary, address)
    running = start("answers.csv", "--cluster", address)
    wait_for_parts(tmp_path, 3, running)
    second.kill()
    ended(running)
    assert (tmp_path / "answers.csv").read_bytes() == one_machine
    parts = answered(temporary)
    assert len(parts) == len(set(parts)) == 12


@pytest.mark.fault("`--cluster` with an address where there is no cluster")
def test_a_wrong_address_is_one_line(start: Start, cluster: tuple[Node, str]) -> None:
    for address, says in (
        ("nowhere", "--cluster: found 'nowhere'; give the address of a Ray cluster as HOST:PORT"),
        ("127.0.0.1:1", "--cluster: nothing answers at 127.0.0.1:1 (Connection refused); start it"),
    ):
        _, error = ended(start("answers.csv", "--cluster", address), 1)
        assert error.startswith(f"error: {says}")
        assert len(error.splitlines()) == 1


OTHER_VERSION = """
import sys
import ray
ray.__version__ = "2.0.0"
import ray._private.utils
from ray.scripts.scripts import main
sys.argv = ["ray", *sys.argv[1:]]
main()
"""


def launcher(path: Path, python: str, script: str) -> Path:
    """A `ray` command of one's own."""
    (path.parent / "other_ray.py").write_text(script, encoding="utf-8")
    path.write_text(f'#!/bin/sh\nexec {python} {path.parent}/other_ray.py "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.fault("a cluster of another version of Ray")
def test_another_version_of_ray_is_one_line(
    start: Start, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = launcher(tmp_path / "ray", sys.executable, OTHER_VERSION)
    monkeypatch.setattr(sys.modules[__name__], "RAY", other)
    monkeypatch.setattr(Node.__init__, "__kwdefaults__", {"ray": other})
    head, address = Node.head(temporary)
    _, error = ended(start("answers.csv", "--cluster", address), 1)
    head.kill()
    assert re.fullmatch(
        rf"error: --cluster: {address} runs Ray 2\.0\.0 on Python \S+, this machine Ray \S+ on"
        r" \S+; install the same here",
        error,
    )


@pytest.mark.fault("a node of the cluster that lacks this package")
def test_a_node_without_the_package_is_one_line(
    start: Start, cluster: tuple[Node, str], temporary: Path, tmp_path: Path
) -> None:
    _, address = cluster
    ours = Path(pa.__file__).parents[1]
    theirs = tmp_path / "site"
    theirs.mkdir()
    for entry in ours.iterdir():  # all that is installed, but for this package
        if "bert_qa" not in entry.name and not entry.name.startswith("__editable__"):
            (theirs / entry.name).symlink_to(entry)
    python = tmp_path / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python], check=True)
    (site,) = python.glob("lib/python*/site-packages")
    (site / "theirs.pth").write_text(f"{theirs}\n")
    script = "import sys\nfrom ray.scripts.scripts import main\nsys.argv[0] = 'ray'\nmain()\n"
    ray = launcher(tmp_path / "ray", str(python / "bin/python"), script)
    Node.worker(temporary, address, ray)
    _, error = ended(start("answers.csv", "--cluster", address), 1)
    assert re.fullmatch(
        r"error: --cluster: node \S+ has bert-qa none, this machine \S+; install the same there:"
        r" pip install 'bert-qa\[cluster\]'",
        error,
    )


def test_more_sessions_than_room_wait_for_nodes(
    start: Start, cluster: tuple[Node, str], tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("Context,Question\nAda was here,Who?\n")
    more = ("--cluster", cluster[1], "--sessions", "2")
    out, _ = ended(start("out.csv", *more, source="in.csv"))
    assert out.startswith("--sessions: the cluster has room for 1 of 2 now; more start when nodes")
    assert (tmp_path / "out.csv").exists()


@pytest.mark.fault("a row that cannot be answered, on a cluster")
def test_a_bad_row_is_named_as_on_one_machine(
    start: Start, tmp_path: Path, cluster: tuple[Node, str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, rows in (("a", "x,Who?\n"), ("b", "x,Who?\n,Who?\n"), ("c", "y\n")):
        (folder / f"{name}.csv").write_text(f"Context,Question\n{rows}")
    _, error = ended(start("out", "--cluster", cluster[1], source="in"), 1)
    assert error == (
        f"error: {folder}/b.csv: row 2: Context is empty; fix or drop it, or set --on-error keep;"
        " and 1 more files"
    )
    out, _ = ended(start("out", "--cluster", cluster[1], "--on-error", "keep", source="in"))
    assert f"{tmp_path}/out: 3 files\n" in out
    assert "2 of them could not be answered, see the column Error" in out


def test_fifty_files_of_azure_storage_give_fifty(
    start: Start, table: Path, azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import ContainerClient

    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    container = ContainerClient.from_connection_string(azurite.connection_string, "tables")
    container.create_container()
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))[:1000]
    (tmp_path / "in").mkdir()
    for at in range(50):
        name = f"in/{at:02}.parquet"
        pq.write_table(pa.Table.from_pylist(rows[at * 20 : at * 20 + 20]), tmp_path / name)
        container.upload_blob(name, (tmp_path / name).read_bytes())
    out, error = ended(start("abfs://tables/out", "--cluster", "auto", source="abfs://tables/in"))
    assert error == ""
    assert "abfs://tables/out: 50 files" in out
    ended(start("here", source="in"))
    found = {blob.name: blob for blob in container.list_blobs("out/")}
    assert [*found] == [f"out/{at:02}.parquet" for at in range(50)]
    for at in range(50):
        there = container.download_blob(f"out/{at:02}.parquet").readall()
        here = pq.read_table(tmp_path / f"here/{at:02}.parquet")
        assert pq.read_table(pa.BufferReader(there)).equals(here)
    _, error = ended(start("abfs://tables/out", source="abfs://tables/in"), 1)
    assert error.startswith("error: abfs://tables/out: not an empty folder; name a new one")
    ended(start("abfs://tables/one.parquet", source="abfs://tables/in/00.parquet"))
    one = container.download_blob("one.parquet").readall()
    assert one == (tmp_path / "here/00.parquet").read_bytes()
    assert not list(container.list_blobs(".one"))


@pytest.mark.fault("a container that is not there, or that may not be read")
def test_a_container_that_cannot_be_read_is_one_line(
    start: Start, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    for more in ((), ("--cluster", "auto")):
        _, error = ended(start("out.csv", *more, source="abfs://absent/in.csv"), 1)
        assert error == "error: abfs://absent/in.csv: no such file or container; check its name"
    key = azurite.part("AccountKey")
    wrong = azurite.connection_string.replace(key, "A" * 86 + "==")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
    _, error = ended(start("out.csv", source="abfs://tables/in.csv"), 1)
    assert error.startswith("error: abfs://tables/in.csv: could not read it: the credentials")
    assert len(error.splitlines()) == 1
