"""The processor under this process: its name, its cores, whether it multiplies in BF16.

Asks the system and not torch, whose import takes longer than answering a question. Knows nothing of
models, and nothing of GPUs.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def machine() -> str:
    """The processor's name and how many cores this process may use, in words."""
    found = re.search(r"^model name\s*: *(.+)$", _cpuinfo(), re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def has_bf16() -> bool:
    """Whether the processor multiplies in BF16, by AVX-512 or AMX."""
    flags = re.search(r"^flags\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags[1].split())


def _cpuinfo() -> str:
    return CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
