"""What the system says of the processor, and how it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qa.processor import CPUINFO, cores, has_bf16, machine

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
    monkeypatch.setattr("qa.processor.CPUINFO", tmp_path / "cpuinfo")
    assert has_bf16() is able
    assert machine() == f"A Processor 9000, {cores()} cores"


def test_a_system_that_does_not_tell_has_a_name_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qa.processor.CPUINFO", tmp_path / "none")
    assert not has_bf16()
    assert machine().endswith(f", {cores()} cores")


@pytest.mark.skipif(not CPUINFO.is_file(), reason="no /proc/cpuinfo")
def test_torch_says_the_same_of_this_processor() -> None:
    capabilities = torch.cpu.get_capabilities()
    torchs = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    assert has_bf16() == bool(torchs)
