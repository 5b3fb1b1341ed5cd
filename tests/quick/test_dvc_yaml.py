"""dvc.yaml tells the truth: a stage's deps and params are those that its script uses."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from bert_qa.params import Params

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    name: stage
    for file in ("dvc.yaml", "benchmark/dvc.yaml")
    for name, stage in yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["stages"].items()
}


NOT_TRACKED = ("data/sample/", "models/minilm-squad")
"""In git."""

WAITED_FOR = {"models/probe.json", "models/checked.json"}
"""Deps that nobody reads: the stage that writes them runs first."""

NO_INPUT = {"checkpoints"}
"""Sections that no output depends on, and so no stage's params."""


def script(name: str) -> Path:
    """The script of a stage."""
    module = str(STAGES[name]["cmd"]).removeprefix("python -m ")
    return ROOT / f"{module.replace('.', '/')}.py"


def sections(source: Path) -> set[str]:
    """The sections of params.yaml that a stage script declares."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    declared = {
        str(field.target.id)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "Params"
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return set(Params.model_fields) if "read_all_params" in names else declared


@pytest.mark.parametrize("name", STAGES)
def test_code_is_a_dependency_by_its_digest(name: str) -> None:
    deps = STAGES[name]["deps"]
    assert name == "digest" or not [dep for dep in deps if dep.endswith(".py")]
    code = [dep for dep in deps if dep.startswith(("digests/", "bert_qa", "stages"))]
    assert code == (["bert_qa", "stages"] if name == "digest" else [f"digests/{name}.json"])


def test_digest_reads_all_of_the_code() -> None:
    files = [dep for dep in STAGES["digest"]["deps"] if dep.startswith("benchmark/")]
    assert files == sorted(f"benchmark/{file.name}" for file in (ROOT / "benchmark").glob("*.py"))


@pytest.mark.parametrize("name", STAGES)
def test_params_are_the_sections_that_the_stage_reads(name: str) -> None:
    declared = {param.partition(".")[0] for param in STAGES[name].get("params", [])}
    assert declared | NO_INPUT == sections(script(name)) | NO_INPUT


@pytest.mark.parametrize("name", STAGES)
def test_every_data_dep_and_out_is_one_that_the_script_names(name: str) -> None:
    """Joined paths included: `DATA / "train.jsonl"` counts as data/squad/train.jsonl."""
    tree = ast.parse((script(name)).read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    stage = STAGES[name]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
    logged = [next(iter(out)) for kind in ("metrics", "plots") for out in stage.get(kind, [])]
    for path in logged:  # DVCLive writes some into a folder that the script names
        assert any(isinstance(word, str) and path.startswith(word) for word in words if word), path
    for path in [dep for dep in stage["deps"] if not dep.startswith("digests/")] + outs:
        if "${" in path or path in WAITED_FOR:  # a key of params.yaml: the sections cover it
            continue
        if path.startswith("benchmark/requirements"):  # what is installed
            continue
        # A file of its own may be all that a stage reads of a folder.
        assert path in words or path.rpartition("/")[0] in words, path
    read = {
        word for word in words if isinstance(word, str) and word.startswith(("data/", "models/"))
    }
    declared = [*stage["deps"], *outs, *NOT_TRACKED]
    for word in read:
        assert any(path.startswith(word) or word.startswith(path) for path in declared), word


@pytest.mark.parametrize("name", STAGES)
def test_stage_scripts_are_thin(name: str) -> None:
    lines = (script(name)).read_text(encoding="utf-8").splitlines()
    assert sum(1 for line in lines if line.strip()) <= 60
    functions = [n for n in ast.parse("\n".join(lines)).body if isinstance(n, ast.FunctionDef)]
    assert [function.name for function in functions] == ["main"]


def test_imports_only_go_downward() -> None:
    """Of the package's modules, then of the two that stand on it."""
    folders = ("bert_qa", "benchmark", "release")
    files = [file for folder in folders for file in (ROOT / folder).rglob("[!_]*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    graph = {name: set[str]() for name in names}
    for name, imports in graph.items():
        for node in ast.walk(ast.parse(names[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                imports |= {str(module) for module in named if module in graph}
        top = name.partition(".")[0]
        allowed = ("bert_qa", top)
        assert not [other for other in imports if other.partition(".")[0] not in allowed], name
    while graph:
        leaves = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert leaves, f"modules that import each other: {sorted(graph)}"
        for name in leaves:
            del graph[name]
