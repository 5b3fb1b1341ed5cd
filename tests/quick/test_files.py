"""Outputs appear whole or not at all, and a person's mistake is one line."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_qa import files as outputs
from bert_qa.errors import UserError
from bert_qa.files import (
    check_output,
    hash_file,
    resumable_file,
    whole_file,
    whole_folder,
    write_json,
)
from tests.conftest import ROOT


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.txt"
    with whole_file(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(ValueError, match="half way"), whole_file(path) as partial:
        partial.write_text("two")
        raise ValueError("half way")
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with whole_folder(path) as partial:
        (partial / "a").write_text("1")
    with pytest.raises(ValueError, match="half way"), whole_folder(path) as partial:
        (partial / "b").write_text("2")
        raise ValueError("half way")
    assert [file.name for file in path.iterdir()] == ["a"]
    with whole_folder(path) as partial:
        (partial / "c").write_text("3")
    assert [file.name for file in path.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [path]


def within(place: Path) -> Path:
    """A file to write in the place that one of the writers yields."""
    return place / "content" if place.is_dir() else place


@pytest.mark.fault("two runs that write one output")
@pytest.mark.parametrize("writer", [whole_file, whole_folder, resumable_file])
def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path: Path, writer: Any) -> None:
    path = tmp_path / "out"
    with writer(path) as partial:
        with pytest.raises(UserError, match="out: another run is writing it"), writer(path):
            pass
        within(partial).write_text("of the first")
    assert within(path).read_text() == "of the first"
    assert list(tmp_path.iterdir()) == [path]
    with writer(path) as partial:  # the lock has gone with the first
        within(partial).write_text("of the second")


@pytest.mark.fault(
    "what a killed run left beside an output", sees="nothing of it is in the next output"
)
def test_what_a_killed_run_left_is_not_in_the_next_output(tmp_path: Path) -> None:
    path = tmp_path / "out"
    (tmp_path / ".out.partial/deep").mkdir(parents=True)
    (tmp_path / ".out.partial/deep/old").write_text("old")
    (tmp_path / ".out.partial/link").symlink_to("deep")
    with whole_folder(path) as partial:
        (partial / "new").write_text("new")
    assert [file.name for file in path.iterdir()] == ["new"]
    (tmp_path / ".file.partial").write_text("much that is old")
    with whole_file(tmp_path / "file") as partial:
        partial.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_resumable_file_keeps_what_a_failure_left(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("former")
    with pytest.raises(ValueError, match="half way"), resumable_file(path) as partial:
        partial.write_text("half")
        raise ValueError("half way")
    assert path.read_text() == "former"
    with resumable_file(path) as partial:
        assert partial.read_text() == "half"
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault("an output that is a device, a pipe, a folder, or a link to a protected file")
@pytest.mark.parametrize("writer", [whole_file, resumable_file])
def test_a_link_is_written_through_and_what_is_no_file_is_refused(
    tmp_path: Path, writer: Any
) -> None:
    def write(path: Path) -> None:
        with writer(path) as partial:
            partial.write_text("new")

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/target").write_text("old")
    (tmp_path / "link").symlink_to("elsewhere/target")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere/target").read_text() == "new"
    (tmp_path / "elsewhere/target").chmod(0o444)  # as DVC's cache is
    with pytest.raises(UserError, match="link: a link to a write-protected file; remove the link"):
        write(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/full")):
        with pytest.raises(UserError, match="not a regular file, but a device or a pipe"):
            write(path)
        assert not path.is_file()
    with pytest.raises(UserError, match="a folder, where a file is written"):
        write(tmp_path / "elsewhere")


@pytest.mark.fault("an output that cannot be: a name too long, a file in the way")
def test_a_place_that_cannot_be_written_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for writer in (whole_file, whole_folder, resumable_file):
        for name in ("x" * 250, "file/out"):
            with pytest.raises(UserError, match="cannot be written"), writer(tmp_path / name):
                pytest.fail("the work began")
    with (
        pytest.raises(UserError, match="a file, where a folder is"),
        whole_folder(tmp_path / "file"),
    ):
        pytest.fail("the work began")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.fault(
    "a full disk", sees="`error: out: No space left on device`; the former output stays"
)
@pytest.mark.parametrize("error", [None, RuntimeError("a library's own words")])
@pytest.mark.parametrize("writer", [whole_file, whole_folder, resumable_file])
def test_a_full_disk_is_named_with_the_file_and_leaves_the_former(
    small_disk: Path, writer: Any, error: Exception | None
) -> None:
    path = small_disk / "out"
    path.write_text("former") if writer is not whole_folder else path.mkdir()

    def fill(file: Path) -> None:
        with file.open("wb") as content:
            try:
                content.write(b"x" * 500_000)
            except OSError:
                if error is not None:
                    raise error from None
                raise

    with pytest.raises(OSError, match="No space left on device") as caught, writer(path) as partial:
        fill(within(partial))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename) == str(path)
    assert path.is_dir() or path.read_text() == "former"


REPLACING = """
import sys, itertools
from pathlib import Path
from typing import Any
from bert_qa import files as outputs
if sys.argv[2] == "without exchange":
    def refuse(one, other): raise OSError(22, "not here")
    outputs._exchange = refuse
for number in itertools.count(int(sys.argv[3])):
    with outputs.whole_folder(Path(sys.argv[1])) as out:
        for name in "abc":
            (out / name).write_text(str(number))
    if number == int(sys.argv[3]):
        print("on the way", flush=True)
"""


@pytest.mark.fault(
    "kill -9 while a folder takes the place of the former one", sees="one or the other, whole"
)
@pytest.mark.parametrize("how", ["exchange", "without exchange"])
def test_a_kill_at_any_point_leaves_a_whole_folder(tmp_path: Path, how: str) -> None:
    path = tmp_path / "out"
    draw = random.Random(0)
    for start in range(0, 8_000_000, 1_000_000):
        writing = subprocess.Popen(
            [sys.executable, "-c", REPLACING, path, how, str(start)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert writing.stdout is not None
        assert writing.stdout.readline() == b"on the way\n"
        time.sleep(draw.random() / 20)
        writing.send_signal(signal.SIGKILL)
        writing.wait()
        writing.stdout.close()
        if how == "without exchange":  # where a kill may leave the former under its other name
            outputs._restore(path)
        assert sorted(file.name for file in path.iterdir()) == ["a", "b", "c"]
        assert len({file.read_text() for file in path.iterdir()}) == 1
    with whole_folder(path) as partial:
        (partial / "d").write_text("")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault("an output that git tracks, or that lies outside the project")
def test_an_output_that_dvc_or_git_would_lose_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "project"], check=True)
    monkeypatch.chdir(tmp_path / "project")
    Path("notes.csv").write_text("edited")
    subprocess.run(["git", "add", "notes.csv"], check=True)
    for name in ("notes.csv", "../project/notes.csv"):
        with pytest.raises(UserError, match=f"git tracks {name}, which the answers would replace"):
            check_output(Path(name), "infer.output")
    with pytest.raises(UserError, match="is in a folder of git or DVC"):
        check_output(Path(".git/config"), "infer.output")
    Path("new.csv").write_text("not added")
    for name in ("new.csv", "absent/output.csv", "../output.csv"):
        check_output(Path(name), "infer.output")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    check_output(Path("new.csv"), "infer.output")
    Path("notes.csv").unlink()  # git tracks it still, and DVC would refuse it
    with pytest.raises(UserError, match=r"git tracks notes\.csv"):
        check_output(Path("notes.csv"), "infer.output")
    with pytest.raises(UserError, match="is outside the project"):
        check_output(Path("../output.csv"), "infer.output")
    copy = tmp_path / "project/.dvc/tmp/exps/standalone/x"  # as `dvc exp run --temp` makes one
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(copy))
    check_output(Path("data/output.csv"), "infer.output")
    with pytest.raises(UserError, match="is in a folder of git or DVC"):
        check_output(Path(".dvc/config"), "infer.output")


@pytest.mark.fault(
    "an error of a library: {words}",
    sees="`error: ...`, the words of the operating system and the output's name",
)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("Error while serializing: I/O error: File too large (os error 27)", "File too large$"),
        ("Input/output error (os error 5)", "Input/output error .while .*out was being written"),
        (
            "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
            "while .*out was",
        ),
        ("a write failed: Read-only file system", "Read-only file system$"),
    ],
)
def test_a_library_s_own_error_of_a_disk_is_one_of_the_system(
    tmp_path: Path, words: str, says: str
) -> None:
    """As safetensors, tokenizers and torch.save raise theirs."""
    with pytest.raises(OSError, match=r"\[Errno") as caught, whole_folder(tmp_path / "out"):
        raise RuntimeError(words)
    assert re.search(says, str(caught.value.strerror))
    with pytest.raises(RuntimeError, match="another"), whole_folder(tmp_path / "out"):
        raise RuntimeError("another kind of error")


def test_json_keeps_order_and_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": "é", "a": 1.5})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n  "b": "é",\n  "a": 1.5\n}\n'
    # echo -n abc | sha256sum
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.fault("in a stage: {code}", sees="{error}")
@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("raise UserError('a file:\\n row 3')", 1, "error: a file: row 3\n"),
        ("open('/absent/file')", 1, "error: /absent/file: No such file or directory\n"),
        ("raise UserError('two  spaces\\tand \\ufeff')", 1, "error: two  spaces\\tand \\ufeff\n"),
        ("raise OSError(28, 'No space left on device')", 1, "error: No space left on device\n"),
        ("raise MemoryError", 1, "error: memory ran out\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("import os; os.kill(os.getpid(), 15)", 143, "terminated\n"),
        (
            "import os; os.close(0); r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w);"
            " print('nobody reads this')",
            141,
            "",
        ),
        ("print('fine')", 0, ""),
    ],
)
def test_how_a_script_ends(code: str, status: int, error: str) -> None:
    program = f"from bert_qa.errors import UserError, run\ndef main():\n    {code}\nrun(main)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, error)


SCRIPTS = [
    file
    for folder in ("stages", "scripts", "release", "benchmark")
    for file in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in file.read_text(encoding="utf-8") and file.name != "processes.py"  # a worker's
]


def interruptible(command: list[object], **options: Any) -> subprocess.Popen[str]:
    """A process that heeds Ctrl-C, also when these tests run in the background and do not."""
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
    finally:
        signal.signal(signal.SIGINT, heeded)


@pytest.mark.fault("Ctrl-C while a script imports its first modules", sees="nothing")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_ctrl_c_is_quiet_before_a_script_imports_anything(tmp_path: Path, script: Path) -> None:
    # One is imported by each, and none by Python itself before the script.
    for module in ("argparse", "json", "bert_qa"):
        (tmp_path / f"{module}.py").write_text(
            f"import os, signal, time\nos.write(1, b'{module}')\n"
            "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
        )
    process = interruptible(
        [sys.executable, script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    said, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (-signal.SIGINT, "")
    assert said in {"argparse", "json", "bert_qa"}


@pytest.mark.fault(
    "Ctrl-C or SIGTERM while a stage imports libraries", sees="`interrupted`, `terminated`"
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_is_ended_while_it_imports_has_no_traceback(
    tmp_path: Path, number: signal.Signals
) -> None:
    """In its `main`, where C code would print one of its own."""
    (tmp_path / "slow.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    program = "from bert_qa.errors import run\ndef main():\n    import slow\nrun(main)"
    process = interruptible(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (process.returncode, error) == (128 + number, f"{word}\n")


@pytest.mark.fault("SIGTERM while code in C is imported", sees="`terminated`")
def test_a_signal_counts_though_other_code_made_another_error_of_it() -> None:
    program = """
import os
from bert_qa.errors import run
def main():
    try:
        os.kill(os.getpid(), 15)
    except BaseException:
        raise ImportError("initialization failed")
run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (143, "terminated\n")


@pytest.mark.fault("an answer with ü on a terminal of ASCII", sees="`M\\xfcnchen`")
def test_an_answer_is_printed_whatever_the_encoding() -> None:
    program = "from bert_qa.errors import run\nrun(lambda: print('M\u00fcnchen'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"M\\xfcnchen\n", b"")


def test_a_defect_keeps_its_traceback() -> None:
    program = "from bert_qa.errors import run\nrun(lambda: 1 / 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
