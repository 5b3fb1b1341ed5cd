"""Outputs appear whole or not at all, and a person's mistake is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qa.outputs import hash_file, whole_file, whole_folder, write_json
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


def test_json_keeps_order_and_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": "é", "a": 1.5})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n  "b": "é",\n  "a": 1.5\n}\n'
    # echo -n abc | sha256sum
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("raise UserError('a file:\\n row 3')", 1, "error: a file: row 3\n"),
        ("open('/absent/file')", 1, "error: /absent/file: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("print('fine')", 0, ""),
    ],
)
def test_how_a_script_ends(code: str, status: int, error: str) -> None:
    program = f"from qa.errors import UserError, run\ndef main():\n    {code}\nrun(main)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, error)


def test_a_defect_keeps_its_traceback() -> None:
    program = "from qa.errors import run\nrun(lambda: 1 / 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
