"""README.md, docs/ and the pages beside them: their shape, links, commands and generated parts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_qa.cli import make_parser
from bert_qa.params import Params
from scripts.parameter_reference import reference
from tests.conftest import ROOT, Project

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
]
WRITTEN = [page for page in PAGES if page.stem not in ("encoders", "faults", "parameters")]
COMMANDS: dict[str, dict[str, str]] = yaml.safe_load(
    (ROOT / "tests/commands.yaml").read_text(encoding="utf-8")
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def commands(page: Path) -> Iterator[str]:
    """The commands that a page shows, each on one line."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield " ".join(line[2:].partition(" # ")[0].split())


SHOWN = sorted({command for page in PAGES for command in commands(page)})


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_the_readme_is_short_and_shows_a_picture_first() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:30])
    assert any(line.startswith("| INT8") for line in lines[:30])


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_no_line_is_long_but_in_tables_and_code(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 110 and line[0] != "|"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\((\w+)\.md\)", index))
    assert listed == {page.stem for page in (ROOT / "docs").glob("*.md")} - {"README"}


@pytest.mark.parametrize("command", SHOWN)
def test_a_shown_command_is_run_by_a_test_or_says_why_not(command: str) -> None:
    entry = COMMANDS[command]
    assert entry.keys() in ({"test"}, {"why"}, {"test", "why"})
    if "test" in entry:
        file, name = entry["test"].split("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_no_command_is_listed_that_no_page_shows() -> None:
    targets = {f"make {name}" for page in PAGES for name in made(page)}
    assert set(COMMANDS) - set(SHOWN) - targets == set()


def made(page: Path) -> list[str]:
    """The targets of make that a page names in a sentence."""
    return re.findall(r"`make ([a-z-]+)[^`]*`", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_that_a_sentence_names_are_there(page: Path) -> None:
    for name in made(page):
        assert re.search(rf"^[a-z -]*\b{name}\b[a-z -]*:", MAKEFILE, re.MULTILINE), name


@pytest.mark.parametrize("command", SHOWN)
def test_a_shown_command_is_well_formed(command: str) -> None:
    """Programs, targets, modules, options and parameters are there by these names."""
    for part in command.split(" && "):
        program, *arguments = shlex.split(part)
        match program:
            case "make":
                check_make(arguments)
            case "bert-qa":
                make_parser().parse_args(arguments)
            case "dvc":
                check_dvc(arguments)
            case "python":
                assert arguments[0] == "-m"
                assert (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").is_file()
            case _:
                own = (ROOT / program).is_file()
                assert own or program in {
                    "cd",
                    "cp",
                    "export",
                    "git",
                    "mkdir",
                    "pip",
                    "pytest",
                    "source",
                }


def check_make(arguments: list[str]) -> None:
    target, *variables = arguments
    assert re.search(rf"^[a-z -]*\b{target}\b[a-z -]*:", MAKEFILE, re.MULTILINE)
    for variable in variables:
        assert f"$({variable.partition('=')[0]})" in MAKEFILE


def check_dvc(arguments: list[str]) -> None:
    from dvc.cli import parse_args

    options: Any = parse_args(arguments)
    for change in getattr(options, "set_param", None) or ():
        section, _, key = change.partition("=")[0].partition(".")
        model = Params.model_fields[section].annotation
        assert key in getattr(model, "model_fields", {}), change


def test_the_reference_of_parameters_is_that_of_the_code() -> None:
    """Of the parameters here, or of the commit's, where an experiment has left its own here."""
    page = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    here = (ROOT / "params.yaml").read_text(encoding="utf-8")
    show = ("git", "show", "HEAD:params.yaml")
    committed = subprocess.run(show, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    assert page in (reference(here), reference(committed)), "run `make docs`"


def test_messages_that_troubleshooting_quotes_are_the_code_s() -> None:
    """Of each row of its tables the first cell quotes a message, in parts where values stand."""
    code = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        for folder in ("bert_qa", "stages", "scripts", "release", "benchmark", "cloud")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".sh")
    )
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    others = {"Unable to read RWLock-file", "No space left on device"}  # DVC's, and the system's
    quoted = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(quoted) > 20
    for message in quoted:
        known = message in code or any(message.startswith(other) for other in others)
        assert known, message


def test_the_readme_s_table_is_that_of_the_results_and_of_the_benchmark() -> None:
    table = {
        label: re.findall(rf"^\| {label}.*$", README, re.MULTILINE)[0].split(" | ")
        for label in ("FP32", "INT8, calibrated", "INT8, then trained")
    }
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    block = results.partition("22275 questions")[2]
    rest = re.findall(r"^(?:FP32|INT8, \w+) +(\S+) +(\S+)", block, re.MULTILINE)[:3]
    for cells, figures in zip(table.values(), rest, strict=True):
        assert tuple(cells[1:3]) == figures
    measured = json.loads((ROOT / "metrics/benchmark.json").read_text(encoding="utf-8"))
    speeds = [row["questions_per_second"] for row in measured["contenders"].values()]
    shown = re.findall(r"\b\d+\b", " ".join(cells[-1] for cells in table.values()))
    assert len(shown) >= 4
    for speed in shown:
        assert int(speed) in {round(each) for each in speeds}, speed


def test_the_version_is_the_same_everywhere() -> None:
    found = {
        name: re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)[0]
        for name, pattern in (
            ("pyproject.toml", r'^version = "(.+)"'),
            ("CITATION.cff", r"^version: (.+)$"),
            ("CHANGELOG.md", r"^## (\d\S+)"),
            ("README.md", r"Version (\d+\.\d+\.\d+)"),
        )
    }
    assert len(set(found.values())) == 1, found


def test_pre_commit_has_the_pinned_dvc() -> None:
    pinned = re.search(
        r"^dvc==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert pinned is not None
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert pinned[1] in {repo.get("rev") for repo in hooks["repos"]}


def test_the_licence_is_apache_s_own_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for folder in ("data/sample/", "models/minilm-squad/"):
        assert folder in notice


def test_a_broken_note_of_dvc_is_removed_as_the_docs_say(project: Project) -> None:
    (project.folder / "dvc.yaml").write_text(
        "stages:\n  one:\n    cmd: echo 1 > one\n    outs: [one]\n", encoding="utf-8"
    )
    note = Path(project.folder, ".dvc/tmp/rwlock")
    note.parent.mkdir(parents=True)
    note.write_text("")
    done = project.run("dvc", "repro")
    said = " ".join(done.stderr.split())
    assert done.returncode != 0
    page = " ".join((ROOT / "docs/experiments.md").read_text(encoding="utf-8").split())
    message = "Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure is corrupted"
    assert message in said
    assert message in page
    remedy = re.search(r"`(rm -f \.dvc/tmp/rwlock [^`]*)`", page)
    assert remedy is not None
    project.check("sh", "-c", remedy[1])
    project.check("dvc", "repro")


def test_what_dvc_plots_show_leaves_is_in_no_commit(project: Project) -> None:
    """`make release` refuses a checkout with files that git does not know."""
    (project.folder / "dvc_plots").mkdir()
    (project.folder / "dvc_plots/index.html").touch()
    assert project.git("status", "--porcelain") == ""
