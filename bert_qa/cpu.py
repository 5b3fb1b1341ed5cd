"""The machine under this process: its processor, and the cores and memory it may use of it.

Asks the system and not torch, whose import takes longer than answering a question. Knows nothing of
models, and nothing of GPUs.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

from bert_qa.errors import UserError

CPUINFO = Path("/proc/cpuinfo")
CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def machine() -> str:
    """The processor's name and how many cores this process may use, in words."""
    found = re.search(r"^model name\s*: *(.+)$", _cpuinfo(), re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Cores that this process may use: a container's quota counts, as a mask of processors does."""
    import joblib  # it takes a fifth of a second, which one question does without

    count: int = joblib.cpu_count()
    return count


def processors() -> list[int]:
    """The numbers of as many processors as this process may use.

    A quota names none: then they are neighbours from a place drawn at random, because containers
    that share a machine would all take the first ones.
    """
    allowed, count = sorted(os.sched_getaffinity(0)), cores()
    if count >= len(allowed):
        return allowed
    first = secrets.randbelow(len(allowed))
    return sorted((allowed[first:] + allowed[:first])[:count])


def check_sessions(count: int | Literal["auto"]) -> None:
    """Check that there is a processor for each of as many sessions.

    Raises:
        UserError: there are fewer.
    """
    if count != "auto" and count > (allowed := len(processors())):
        raise UserError(
            f"params.yaml: infer.sessions: found {count}; this process may use {allowed}"
            " processors: set auto or fewer"
        )


def available_memory() -> int:
    """Bytes that this process can still take: the machine's free memory, or its cgroup's."""
    free: int = psutil.virtual_memory().available
    return min([free, *_cgroup_memory()])


def _cgroup_memory() -> Iterator[int]:
    """Bytes left in each cgroup that this process is in, of version 1 or 2, up to the outermost.

    Inside a container the outermost visible one has the container's limit, and the path in
    /proc/self/cgroup may be one of the host's. Cached files do not count: they make room.
    """
    for line in CGROUPS.read_text(encoding="utf-8").splitlines() if CGROUPS.is_file() else ():
        _, controllers, place = line.split(":", 2)
        if not controllers:
            top, limit, usage, cached = CGROUP_ROOT, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, cached = CGROUP_ROOT / "memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = top / place.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(top) and (group / limit).is_file():
                bound = (group / limit).read_text(encoding="ascii").strip()
                used = int((group / usage).read_text(encoding="ascii"))
                stat = (group / "memory.stat").read_text(encoding="ascii")
                found = re.search(rf"^{cached} (\d+)$", stat, re.MULTILINE)
                if bound != "max":
                    yield max(0, int(bound) - used + (int(found[1]) if found else 0))


def has_bf16() -> bool:
    """Whether the processor multiplies in BF16, by AVX-512 or AMX."""
    flags = re.search(r"^flags\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags[1].split())


def _cpuinfo() -> str:
    return CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
