"""docs/faults.md: what a user sees of each fault that a test is marked with.

`make faults` runs the marked tests with this as a plugin of pytest. A test is marked with what goes
wrong, in words; `{name}` in them stands for a parameter of the test. What the user sees is what the
test meets: a `UserError`, or a line `error: ...` of a command. If it is neither, the mark says it.

    @pytest.mark.fault("a table with an empty question")
    @pytest.mark.fault("a kill in the middle of a table", sees="it goes on where it stopped")
"""

from __future__ import annotations

import ast
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_qa.errors import UserError, one_line
from tests.conftest import ROOT

HEAD = """# Faults, and what you see of them

Each row is a test: what is wrong, what the project says, and the test that holds it to that. No
traceback among them. `make faults` writes this page; paths are shortened.
"""
TABLE = "\n| what is wrong | what you see | test |\n| --- | --- | --- |\n"

rows: dict[str, list[tuple[str, str, str]]] = {}
"""Of each file of tests: the fault, what is seen of it, the test."""


def marked() -> set[str]:
    """The tests that are marked, `tests/quick/test_x.py::test_y`, by their source."""
    found = set()
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                "mark.fault(" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                found.add(f"{file.relative_to(ROOT).as_posix()}::{node.name}")
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, required=True, help="the page to write")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a marked test, and take down what a user would see."""
    seen: list[str] = []
    initialize, communicate = UserError.__init__, subprocess.Popen.communicate

    def initialized(self: UserError, *arguments: Any) -> None:
        initialize(self, *arguments)
        if arguments:
            seen.append(f"error: {one_line(str(arguments[0]))}")

    def communicated(self: Any, *arguments: Any, **named: Any) -> Any:
        both = communicate(self, *arguments, **named)
        for stream in both:
            text = stream.decode(errors="replace") if isinstance(stream, bytes) else stream or ""
            seen.extend(re.findall(r"^error: .*$", text, re.MULTILINE))
        return both

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserError, "__init__", initialized)
        patch.setattr(subprocess.Popen, "communicate", communicated)
        yield
    mark = item.get_closest_marker("fault")
    if mark is None:
        return
    parameters = getattr(item, "callspec", None)
    given = parameters.params if parameters else {}
    values = {name: _shown(value) for name, value in given.items()}
    fault = mark.args[0].format(**values)
    sees = mark.kwargs.get("sees", None)
    sees = sees.format(**values) if sees else "<br>".join(dict.fromkeys(map(_code, seen)))
    if not sees and "sees" not in mark.kwargs:
        raise RuntimeError(f"{item.nodeid}: nothing was seen; say it in the mark")
    if not sees:
        return  # of this parameter nothing, and that is right
    test = item.nodeid.partition("[")[0]
    row = (fault, sees, test)
    of_file = rows.setdefault(test.partition("::")[0], [])
    if row not in of_file:
        of_file.append(row)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page, unless a test failed."""
    if exitstatus != 0:
        return
    page = [HEAD]
    for file, found in sorted(rows.items()):
        title = str(ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
        page.append(f"\n## {title.splitlines()[0].rstrip('.')}\n{TABLE}")
        page += [f"| {_cell(fault)} | {_cell(sees)} | `{test}` |\n" for fault, sees, test in found]
    target: Path = session.config.getoption("--faults")
    target.parent.mkdir(exist_ok=True)
    target.write_text("".join(page), encoding="utf-8")


def _shown(value: object) -> str:
    """A parameter as code."""
    if not isinstance(value, str | bytes | int | float | list | dict | type(None)):
        value = getattr(value, "__name__", value)
    return _code(value if isinstance(value, str) and value.isprintable() else repr(value), 90)


def _code(text: str, longest: int = 400) -> str:
    """Text as code, without the folders of this run, and not too long."""
    place = re.escape(tempfile.gettempdir())
    text = re.sub(rf"{place}/(pytest-of-[^/]+/pytest-\d+/)?([^/\s:]+/)?", "", text)
    text = re.sub(r"(.)\1{40,}", r"\1\1\1...", text.replace(f"{ROOT}/", "").replace("`", "'"))
    return f"`{text[:longest]}{'...' if len(text) > longest else ''}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
