"""NNCF's kernels: built once, by one process, whoever is killed meanwhile.

torch, ninja and the locks are real. The compiler is one that waits and copies the kernels that were
built before, for the real one takes a minute.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nncf.torch.quantization.extensions import QuantizedFunctionsCPU

from qa.kernels import load_kernels
from tests.conftest import ROOT

COMPILER = """\
#!/bin/sh
case "$*" in *-dumpversion*) echo 13.2.0; exit;; esac
echo started >> "$FOLDER/log"
while [ -e "$FOLDER/gate" ]; do sleep 0.05; done
for word; do [ "$before" = -o ] && out=$word; before=$word; done
case $out in *.so) cp "$BUILT" "$out";; *) : > "$out"; : > "$out.d";; esac
"""
LOAD = "from qa.errors import run; from qa.kernels import load_kernels; run(load_kernels)"


class Builder:
    """Processes that load the kernels from an empty folder, with a compiler behind a gate."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kernels = folder, folder / "kernels"
        self.gate, self.log = folder / "gate", folder / "log"
        load_kernels()
        self.built = Path(str(QuantizedFunctionsCPU._loaded_namespace.__file__))
        self.processes: list[subprocess.Popen[str]] = []
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "TORCH_EXTENSIONS_DIR": str(self.kernels),
            "FOLDER": str(folder),
            "BUILT": str(self.built),
        }
        self.use_compiler(COMPILER)

    def use_compiler(self, script: str) -> None:
        compiler = self.folder / "g++"
        compiler.write_text(script, encoding="utf-8")
        compiler.chmod(0o755)
        self.env["CXX"] = str(compiler)

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD],
            cwd=ROOT,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def wait_for_compiler(self) -> None:
        until = time.monotonic() + 60
        while not self.log.exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert self.log.exists()

    def check_built(self) -> None:
        (library,) = self.kernels.rglob("*.so")
        assert library.read_bytes() == self.built.read_bytes()
        assert [path.name for path in library.parent.parent.iterdir() if path.is_dir()] == [
            library.parent.name
        ]


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    made = Builder(tmp_path)
    yield made
    made.gate.unlink(missing_ok=True)  # compilers that outlived their run
    for process in made.processes:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def test_they_are_built_once_and_said_to_be(builder: Builder) -> None:
    # What a killed process left in the folder that torch shares, and in this one.
    for name in ("quantized_functions_cpu", "nncf/quantized_functions_cpu"):
        for folder in (builder.kernels, builder.folder / ".cache/torch_extensions"):
            (folder / name).mkdir(parents=True)
            (folder / name / "lock").touch()
    assert finish(builder.start()) == (
        0,
        "building NNCF's kernels (quantized_functions_cpu), once: about a minute\n",
        "",
    )
    builder.check_built()
    builder.use_compiler("#!/bin/sh\nexit 1\n")  # which nobody asks for now
    assert finish(builder.start()) == (0, "", "")


@pytest.mark.fault("a kill while NNCF's kernels are built", sees="the next run builds them")
def test_a_kill_in_the_middle_leaves_nothing_that_the_next_run_waits_for(builder: Builder) -> None:
    builder.gate.touch()
    killed = builder.start()
    builder.wait_for_compiler()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (lock,) = builder.kernels.rglob("lock")  # torch's own
    other = builder.folder / "other"
    builder.env["FOLDER"] = str(other)  # the killed run's compiler goes on waiting
    other.mkdir()
    code, out, error = finish(builder.start())
    assert (code, error) == (0, "")
    assert "building" in out
    assert not lock.exists()
    builder.check_built()
    builder.gate.unlink()
    time.sleep(0.5)  # the killed run's compilers end
    builder.check_built()


@pytest.mark.fault("two runs that build NNCF's kernels", sees="one builds, the other waits")
def test_of_two_at_once_one_builds_and_the_other_waits(builder: Builder) -> None:
    builder.gate.touch()
    first = builder.start()
    builder.wait_for_compiler()
    second = builder.start()
    assert second.stdout is not None
    assert second.stdout.readline() == "another process builds NNCF's kernels: waiting for it\n"
    builder.gate.unlink()
    assert finish(first)[0] == 0
    assert finish(second) == (0, "", "")
    assert builder.log.read_text().count("started") == 3  # two sources, and the library of them
    builder.check_built()


@pytest.mark.fault("a build of NNCF's kernels that fails")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "no C++ compiler '/no/such/g++'; install one (Debian: apt install g++)"),
        ("echo functions.cpp:1: fatal error: no headers >&2; exit 1", "fatal error: no headers"),
        ("echo write: No space left on device >&2; exit 1", "No space left on device"),
        ("kill -9 $$", "build stopped: subcommand failed"),
    ],
)
def test_a_build_that_fails_is_one_line(builder: Builder, script: str | None, says: str) -> None:
    if script is None:
        builder.env["CXX"] = "/no/such/g++"
    else:
        dump = 'case "$*" in *-dumpversion*) echo 13.2.0; exit;; esac\n'
        builder.use_compiler(f"#!/bin/sh\n{dump}{script}\n")
    code, _, error = finish(builder.start())
    assert code == 1
    assert re.match(r"error: .*NNCF's kernels cannot be built", error), error
    assert says in error
    assert error.count("\n") == 1
    assert list(builder.kernels.rglob("*.so")) == []


@pytest.mark.fault("a folder for NNCF's kernels that cannot be written to")
def test_a_folder_that_cannot_be_written_is_one_line(builder: Builder) -> None:
    builder.kernels.write_text("a file")
    code, _, error = finish(builder.start())
    assert code == 1
    assert error.count("\n") == 1
    assert "NNCF's kernels cannot be built (" in error
    assert "set TORCH_EXTENSIONS_DIR to another folder" in error
