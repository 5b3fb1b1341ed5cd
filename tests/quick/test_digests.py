"""Digests of the code that a stage can reach: too much at times, never too little."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bert_qa.code_digests import read_pins, stage_digests
from bert_qa.errors import UserError
from tests.conftest import ROOT, other_python

STAGE = '''"""A stage."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from qa.work import answer, LIMIT as MOST
from qa import shapes

OUT = Path("out")


def main() -> None:
    print(answer(np.zeros(MOST)), shapes.Square(2).area())


if __name__ == "__main__":
    main()
'''
WORK = '''"""Work."""
import os

import torch
import pandas as pd

from qa.words import count

LIMIT = 3
TABLE = {"a": 1}


def answer(values, *, times=2, sign=+1):
    """Answer."""
    total = 0  # of all
    for value in values:
        total += value
    return _scaled(total, times) * sign * count(f"{total!r:>{LIMIT}} of {TABLE['a']}")


def _scaled(value, times):
    return value * times


def unused():
    return pd.DataFrame()


def also_unused():
    from torch import nn

    return nn.Linear
'''
SHAPES = """class Shape:
    sides = 0

    def area(self):
        raise NotImplementedError

    def name(self):
        return "shape"


class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side ** 2
"""
WORDS = """def count(text):
    return len(text.split())


def _scaled(value):
    return value / 2
"""
FILES = {
    "qa/__init__.py": '"""Package."""\nimport logging\n\nlogging.basicConfig()\n',
    "stages/work.py": STAGE,
    "qa/work.py": WORK,
    "qa/shapes.py": SHAPES,
    "qa/words.py": WORDS,
}


Edits = dict[str, tuple[str, str]]


def digest(folder: Path, edits: Edits | None = None, **files: str) -> Any:
    """The digest of the stage `work`, after edits: by file, a text and what replaces it."""
    content = {**FILES, **{name.replace("__", "/") + ".py": text for name, text in files.items()}}
    for name, (old, new) in (edits or {}).items():
        assert old in content[name]
        content[name] = content[name].replace(old, new, 1)
    shutil.rmtree(folder / "project", ignore_errors=True)
    for name, text in content.items():
        file = folder / "project" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    pins = {"numpy": "2.0", "torch": "2.9", "pandas": "3.1"}
    scripts = {"work": "stages.work"}
    return stage_digests(folder / "project", ("qa", "stages"), scripts, pins)["work"]


def test_what_a_stage_reaches_is_named_with_the_libraries_it_imports_from(tmp_path: Path) -> None:
    found = digest(tmp_path)
    assert set(found["code"]) == {
        "<module>",
        "LIMIT",
        "OUT",
        "Shape",
        "Shape.area",
        "Shape.name",
        "Square",
        "Square.__init__",
        "Square.area",
        "TABLE",
        "_scaled",
        "answer",
        "count",
        "main",
    }
    # Not pandas, which nothing that is reached uses; what nothing at all uses acts by its import.
    assert found["libraries"] == {"numpy": "2.0", "torch": "2.9"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("qa/work.py", "  # of all", "  # of all that there are"),
        ("qa/work.py", '"""Answer."""', '"""Answer, and\n\n    say more.\n    """'),
        ("qa/work.py", '    """Answer."""\n', ""),
        ("qa/work.py", "LIMIT = 3\n", 'LIMIT = 3\n"""At most."""\n'),
        ("qa/work.py", '"""Work."""', '"""Other work."""'),
        ("qa/work.py", "def unused():\n    return", "def unused():\n    x = 1\n    return"),
        ("qa/work.py", "    for value in values:", "\n\n    for value in values:"),
        (
            "qa/work.py",
            "answer(values, *, times=2, sign=+1)",
            "answer(\n    values, *, times=2, sign=+1\n)",
        ),
        ("qa/words.py", "return value / 2", "return value / 3"),
        ("qa/words.py", "def count", "def more():\n    pass\n\n\ndef count"),
        ("qa/shapes.py", "    sides = 0\n", "    # none\n    sides = 0\n"),
    ],
)
def test_what_no_run_can_tell_changes_nothing(
    tmp_path: Path, file: str, old: str, new: str
) -> None:
    assert digest(tmp_path, {file: (old, new)}) == digest(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "names"),
    [
        ("qa/work.py", "total = 0", "sum_ = 0", {"answer"}),
        ("qa/work.py", "times=2", "times=3", {"answer"}),
        ("qa/work.py", "of {TABLE", "or {TABLE", {"answer"}),
        ("qa/work.py", "LIMIT = 3", "LIMIT = 4", {"LIMIT"}),
        ("qa/work.py", '{"a": 1}', '{"a": 2}', {"TABLE"}),
        ("qa/work.py", "value * times", "value + times", {"_scaled"}),
        ("qa/work.py", "def _scaled", "@staticmethod\ndef _scaled", {"_scaled"}),
        ("qa/words.py", "len(text.split())", "len(text)", {"count"}),
        ("qa/shapes.py", "** 2", "** 3", {"Square.area"}),
        ("qa/shapes.py", "sides = 0", "sides = 4", {"Shape"}),
        ("qa/shapes.py", "class Square(Shape)", "class Square(object)", {"Square"}),
        ("qa/shapes.py", 'return "shape"', 'return "form"', {"Shape.name"}),
        ("qa/__init__.py", "basicConfig()", "basicConfig(level=3)", {"<module>"}),
        ("qa/words.py", "def count", "print()\n\n\ndef count", {"<module>"}),
        ("stages/work.py", '"out"', '"there"', {"OUT"}),
        ("stages/work.py", "np.zeros(MOST)", "np.ones(MOST)", {"main"}),
        ("stages/work.py", "import numpy as np", "import torch as np", {"main"}),
        ("stages/work.py", "LIMIT as MOST", "TABLE as MOST", {"main"}),
        ("qa/work.py", "import os\n", "import os\nos.umask(0)\n", {"<module>"}),
        ("qa/work.py", "TABLE =", "_ = os.umask(0)\nTABLE =", {"_", "<module>"}),
    ],
)
def test_what_is_computed_with_is_in_the_digest(
    tmp_path: Path, file: str, old: str, new: str, names: set[str]
) -> None:
    before, after = digest(tmp_path), digest(tmp_path, {file: (old, new)})
    changed = {
        name
        for name in before["code"].keys() | after["code"].keys()
        if before["code"].get(name) != after["code"].get(name)
    }
    assert names <= changed
    assert changed <= names | {"Shape", "Shape.area", "Shape.name"} | names


def test_moving_a_definition_changes_nothing(tmp_path: Path) -> None:
    moved = "def _scaled(value, times):\n    return value * times\n"
    work = WORK.replace(moved, "").replace(
        "import count", "import count\nfrom qa.scales import _scaled"
    )
    assert digest(tmp_path, qa__work=work, qa__scales=moved) == digest(tmp_path)
    stage = STAGE.replace("qa.work", "qa.deep.place")
    found = digest(tmp_path, stages__work=stage, qa__deep____init__="", qa__deep__place=WORK)
    assert found == digest(tmp_path)
    # Where a function imports it itself, too.
    inside = WORK.replace("from qa.words import count\n", "")
    inside = inside.replace("    total = 0", "    from qa.words import count\n\n    total = 0")
    assert inside.count("import count") == 1
    moved = inside.replace("qa.words", "qa.deep.words")
    found = digest(tmp_path, qa__work=moved, qa__deep____init__="", qa__deep__words=WORDS)
    assert found == digest(tmp_path, qa__work=inside)


def test_a_file_that_code_names_is_in_the_digest(tmp_path: Path) -> None:
    """A template, say: as its content is, and only where it is named."""
    project, found = tmp_path / "project", []
    for content in ("a", "b"):
        digest(tmp_path, qa__words=WORDS.replace("len(text", "len('page.jinja' + text"))
        (project / "qa/page.jinja").write_text(content, encoding="utf-8")
        (project / "qa/other.jinja").write_text(content, encoding="utf-8")
        scripts = {"work": "stages.work"}
        found.append(stage_digests(project, ("qa", "stages"), scripts, {})["work"]["code"])
    before, after = found
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert {name for name in before if before[name] != after[name]} == {"qa/page.jinja"}
    assert before.keys() == after.keys()


def test_of_two_definitions_of_one_name_the_one_that_is_meant_counts(tmp_path: Path) -> None:
    """Where both are reached, the text of the caller does not tell which it calls."""
    both = WORDS.replace("len(text.split())", "len(text.split()) * _scaled(1)")
    caller = "from qa.work import answer, LIMIT as MOST"
    ours = STAGE.replace(caller, f"{caller}\nfrom qa.work import _scaled").replace(
        "MOST)),", "MOST)), _scaled,"
    )
    theirs = ours.replace("from qa.work import _scaled", "from qa.words import _scaled")
    one, other = (digest(tmp_path, stages__work=text, qa__words=both) for text in (ours, theirs))
    assert one["code"].keys() == other["code"].keys()
    assert one["code"]["main"] != other["code"]["main"]


@pytest.mark.parametrize(
    ("work", "old", "new"),
    [
        ("try:\n    from qa.a import h\nexcept ImportError:\n    from qa.b import h\n", "1", "3"),
        ("if 1:\n    import qa.a as a\nelse:\n    import qa.b as a\nh = a.h\n", "1", "3"),
        ("from qa.hub import h\n", "1", "3"),
        ("import qa.hub as hub\nh = hub.h\n", "1", "3"),
        ("from qa.c import h\n", "import sin as h", "import cos as h"),
        (
            "h = 1\n# \u2028\u2028\u2028\ndef g():\n    a = 1; b = 2\n    return a\n",
            "return a",
            "return b",
        ),
        ("def h(x: 'int | T' = 1):\n    return x\nclass T:\n    a = 1\n", "a = 1", "a = 2"),
        ("R = []\nclass P:\n    R.append(1)\n", "append(1)", "append(2)"),
        ("R = []\ndef u(x=R.append(1)):\n    pass\n", "append(1)", "append(2)"),
        ("R = []\nR += [2]\nR *= 2\n", "R += [2]\nR *= 2", "R *= 2\nR += [2]"),
        ("def h(): return 1\ndef h(): return 2\n", "return 1", "return 3"),
        ("import numpy\n", "import numpy", "import scipy"),
        ("def h(): return [\n        'a']; 'doc'\n", "'a'", "'b'"),
        ("h = ('python', '-c', 'from qa.a import h')\n", "1", "3"),
        ("h = 'qa/a.py'\n", "1", "3"),
        ("def h():\n    from qa.a import h\n    return h()\n", "qa.a", "qa.b"),
        (  # equal definitions of other constants
            "def g():\n    from qa.d import k, j\n    from qa.e import j as l\n    k(), l()\n",
            "qa.d import k",
            "qa.e import k",
        ),
        (
            "def g():\n    print()\n    from qa.a import h\n    return h()\n",
            "print()\n    from qa.a import h\n",
            "from qa.a import h\n    print()\n",
        ),
        ("def h():\n    from qa.a import h; h()\n    return h\n", "; h()", ""),
        (
            "def g():\n    from qa.a import h\n    from qa.b import h\n    return h()\n",
            "from qa.a import h\n    from qa.b import h\n",
            "from qa.b import h\n    from qa.a import h\n",
        ),
    ],
)
def test_no_change_of_what_may_run_goes_unseen(
    tmp_path: Path, work: str, old: str, new: str
) -> None:
    """Found by a reader of an earlier version, in which each went unseen."""
    files = {
        "stages/work.py": "import qa.w as w\n\n\ndef main():\n    print(w)\n",
        "qa/w.py": work,
        "qa/a.py": "def h():\n    return 1\n",
        "qa/b.py": "def h():\n    return 2\n",
        "qa/d.py": "M = 1\ndef k():\n    return M\ndef j():\n    return k()\n",
        "qa/e.py": "M = 2\ndef k():\n    return M\ndef j():\n    return k()\n",
        "qa/hub.py": "from qa.a import h\n",
        "qa/c.py": "from numpy import sin as h\n",
    }
    found = []
    for edited in (False, True):
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            changed = text.replace(old, new) if edited and name != "qa/b.py" else text
            file.write_text(changed, encoding="utf-8")
        found.append(stage_digests(tmp_path, ("qa", "stages"), {"work": "stages.work"}, {}))
    assert found[0] != found[1]


def test_reordering_definitions_changes_nothing(tmp_path: Path) -> None:
    first, second = WORDS.split("\n\n\n")
    assert digest(tmp_path, qa__words=f"{second}\n\n{first}\n") == digest(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "from qa.words import *",
        "import importlib; importlib.import_module('qa.words')",
        "from importlib import import_module",
        "__import__('qa.words')",
        "import qa.words",
        "eval('count')",
        "exec('count')",
        "globals()['answer']",
        "from qa import words; getattr(words, 'count')",
        "from qa import words; vars(words)",
        "Shape.__subclasses__()",
        "import builtins; builtins.eval('count')",
        "from builtins import eval as e",
        "import pkgutil; pkgutil.resolve_name('qa.words:count')",
        "import qa",
        "class A:\n    def __init_subclass__(cls): pass",
        "def __getattr__(name): pass",
    ],
)
def test_what_the_analysis_cannot_see_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"qa/words\.py:\d+: `.*, behind which the digests"):
        digest(tmp_path, qa__words=f"{WORDS}\n\n{line}\n")


@pytest.mark.parametrize("text", ["def f(:\n", "x = (\n", "\0"])
def test_a_file_that_is_not_python_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"qa/words\.py:\d+: not Python"):
        digest(tmp_path, qa__words=text)


def test_pins_are_read_whatever_the_spelling(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("Py_YAML==6.0 # why\ntorch[cpu]==2.9 ; x\n--hash=sha256:0\n# numpy==1\n")
    assert read_pins([file]) == {"py-yaml": "6.0", "torch": "2.9"}
    with pytest.raises(UserError, match="cannot be read"):
        read_pins([tmp_path / "none.txt"])


def test_the_digests_in_git_are_those_of_the_code(tmp_path: Path) -> None:
    for name in ("bert_qa", "stages", "benchmark"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("requirements.txt", "requirements-no-deps.txt"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, "-m", "stages.digest"], cwd=tmp_path, check=True)
    written = {file.name: file.read_text() for file in (tmp_path / "digests").iterdir()}
    in_git = {file.name: file.read_text() for file in (ROOT / "digests").iterdir()}
    assert written == in_git, "run `dvc repro digest` and commit digests/"


def test_stages_depend_on_no_library_that_they_do_not_import() -> None:
    read = {
        file.stem: json.loads(file.read_text())["libraries"]
        for file in (ROOT / "digests").glob("*.json")
    }
    assert {stage for stage, found in read.items() if "nncf" in found} >= {
        "calibrate",
        "train",
        "export",
    }
    for stage in ("check_params", "download_dataset", "tokenize", "infer", "evaluate"):
        assert not {"nncf", "torch"} & read[stage].keys(), stage
    assert not [name for found in read.values() for name, pin in found.items() if pin is None]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_finds_the_same_digests(tmp_path: Path, version: str) -> None:
    python = other_python(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path;"
        "from bert_qa.code_digests import Sources;"
        "s = Sources(Path(sys.argv[1]), ('bert_qa', 'stages'));"
        "print(json.dumps(s.digests(s.reached('stages.train')), sort_keys=True))"
    )
    outputs = {
        subprocess.run(
            [executable, "-c", program, str(ROOT)], check=True, capture_output=True, text=True
        ).stdout
        for executable in (sys.executable, python)
    }
    assert len(outputs) == 1
