"""The processor, cores and memory of a machine or a container."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from bert_qa import cpu as processor
from bert_qa.cpu import (
    CGROUP_ROOT,
    CPUINFO,
    available_memory,
    cores,
    has_bf16,
    machine,
    processors,
)
from tests.conftest import ROOT

INFO = """processor\t: 0
model name\t: A Processor 9000
flags\t\t: fpu avx512f {flag}

processor\t: 1
model name\t: A Processor 9000
flags\t\t: fpu avx512f {flag}
"""


@pytest.mark.parametrize(
    ("flag", "able"), [("avx512_bf16", True), ("amx_bf16 x", True), ("avx512_bf16x", False)]
)
def test_bf16_is_a_flag_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, able: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(INFO.format(flag=flag), encoding="utf-8")
    monkeypatch.setattr("bert_qa.cpu.CPUINFO", tmp_path / "cpuinfo")
    assert has_bf16() is able
    assert machine() == f"A Processor 9000, {cores()} cores"


def test_a_system_that_does_not_tell_has_a_name_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bert_qa.cpu.CPUINFO", tmp_path / "none")
    assert not has_bf16()
    assert machine().endswith(f", {cores()} cores")


@pytest.mark.skipif(not CPUINFO.is_file(), reason="no /proc/cpuinfo")
def test_torch_says_the_same_of_this_processor() -> None:
    capabilities = torch.cpu.get_capabilities()
    torchs = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    assert has_bf16() == bool(torchs)


def test_processors_are_as_many_as_cores_and_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processors() == sorted(os.sched_getaffinity(0))
    mask = set(range(3, 67))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")  # bounds as a quota does
    drawn = [tuple(processors()) for _ in range(50)]
    assert all(len(set(pair)) == 2 and mask.issuperset(pair) for pair in drawn)
    assert len(set(drawn)) > 1


VERSION_1 = {
    "memory/memory.limit_in_bytes": "9223372036854771712",
    "memory/memory.usage_in_bytes": "9000",
    "memory/memory.stat": "total_inactive_file 0\n",
    "memory/a/memory.limit_in_bytes": "1000",
    "memory/a/memory.usage_in_bytes": "900",
    "memory/a/memory.stat": "inactive_file 7\ntotal_inactive_file 300\n",
}
VERSION_2 = {
    "a/memory.max": "1000",
    "a/memory.current": "900",
    "a/memory.stat": "anon 1\ninactive_file 300\n",
    "a/b/memory.max": "max",
    "a/b/memory.current": "100",
    "a/b/memory.stat": "inactive_file 0\n",
}
CONTAINER = {"memory.max": "1000", "memory.current": "1200", "memory.stat": "inactive_file 0\n"}


@pytest.mark.parametrize(
    ("groups", "files", "available"),
    [
        ("4:memory:/a\n0::/\n", VERSION_1, 400),
        ("3:cpu,memory:/a/gone\n", VERSION_1, 400),
        ("0::/a/b\n", VERSION_2, 400),
        ("0::/of/the/host\n", CONTAINER, 0),
        ("1:cpu:/\n", VERSION_1, None),
        ("0::/\n", {}, None),
    ],
)
def test_memory_is_what_the_tightest_cgroup_leaves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    available: int | None,
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(content)
    monkeypatch.setattr(processor, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processor, "CGROUP_ROOT", tmp_path / "root")
    if available is None:
        assert available_memory() > 100_000_000
    else:
        assert available_memory() == available


@contextmanager
def cgroup(controller: str, **limits: str) -> Iterator[Path]:
    """A cgroup of version 1 with limits, such as `cpu__cfs_quota_us`; skips where none can be."""
    folder = CGROUP_ROOT / controller / f"bert-qa-{os.getpid()}"
    try:
        folder.mkdir()
        for name, value in limits.items():
            (folder / name.replace("__", ".")).write_text(value)
    except OSError:
        pytest.skip(f"no right to make a cgroup in {folder.parent}")
    try:
        yield folder
    finally:
        folder.rmdir()


def printed_in(group: Path, program: str) -> str:
    """What a program prints in a cgroup that it sees as the outermost, as a container does."""
    enter = f"echo $$ > {group}/cgroup.procs && mount --bind {group} {group.parent}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{enter} && exec "$0" -c "$1"', sys.executable, program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(f"no container here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_a_quota_of_processors_bounds_the_sessions() -> None:
    program = (
        "from bert_qa.cpu import *; from bert_qa.sessions import _count; import os;"
        "print(len(os.sched_getaffinity(0)) > 1, cores(), len(processors()), _count(cores()))"
    )
    with cgroup("cpu", cpu__cfs_period_us="100000", cpu__cfs_quota_us="100000") as group:
        assert printed_in(group, program) == "True 1 1 1\n"


def test_a_limit_of_memory_bounds_the_sessions() -> None:
    program = "from bert_qa.cpu import *; print(available_memory())"
    with cgroup("memory", memory__limit_in_bytes=str(600 << 20)) as group:
        assert 0 < int(printed_in(group, program)) < 600 << 20
