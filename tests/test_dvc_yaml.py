"""dvc.yaml tells the truth: a stage's deps and params are those that its script uses."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from qa.params import Params

ROOT = Path(__file__).resolve().parents[1]
STAGES = {
    name: stage
    for file in ("dvc.yaml", "benchmark/dvc.yaml")
    for name, stage in yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["stages"].items()
}


NOT_TRACKED = ("data/sample/", "models/minilm-squad")
"""In git."""

WAITED_FOR = {"models/probe.json"}
"""Deps that nobody reads: the stage that writes them runs first."""


def imported_modules(source: Path) -> set[Path]:
    """Every module of qa/ that a file imports, itself or through another, wherever it does."""
    found: set[Path] = set()
    todo = [source]
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qa."):
                module = ROOT / (str(node.module).replace(".", "/") + ".py")
                if module not in found:
                    found |= {module, ROOT / "qa/__init__.py"}
                    todo.append(module)
    return found


def sections(source: Path) -> set[str]:
    """The sections of params.yaml that a stage script reads: all, if it passes them on whole."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if any(isinstance(arg, ast.Name) and arg.id == "params" for c in calls for arg in c.args):
        return set(Params.model_fields)
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
    }


@pytest.mark.parametrize("name", STAGES)
def test_code_deps_are_the_import_graph(name: str) -> None:
    script = ROOT / f"stages/{name}.py"
    declared = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")}
    used = {str(path.relative_to(ROOT)) for path in (script, *imported_modules(script))}
    assert declared == used


@pytest.mark.parametrize("name", STAGES)
def test_params_are_the_sections_that_the_stage_reads(name: str) -> None:
    declared = {param.partition(".")[0] for param in STAGES[name]["params"]}
    assert declared == sections(ROOT / f"stages/{name}.py")


@pytest.mark.parametrize("name", STAGES)
def test_every_data_dep_and_out_is_one_that_the_script_names(name: str) -> None:
    """Joined paths included: `DATA / "train.jsonl"` counts as data/squad/train.jsonl."""
    tree = ast.parse((ROOT / f"stages/{name}.py").read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    stage = STAGES[name]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
    logged = [next(iter(out)) for kind in ("metrics", "plots") for out in stage.get(kind, [])]
    for path in logged:  # DVCLive writes some into a folder that the script names
        assert any(isinstance(word, str) and path.startswith(word) for word in words if word), path
    for path in [dep for dep in stage["deps"] if not dep.endswith(".py")] + outs:
        if "${" in path or path in WAITED_FOR:  # a key of params.yaml: the sections cover it
            continue
        folder, _, file = path.rpartition("/")
        assert path in words or {folder, file} <= words, path
    read = {
        word for word in words if isinstance(word, str) and word.startswith(("data/", "models/"))
    }
    declared = [*stage["deps"], *outs, *NOT_TRACKED]
    for word in read:
        assert any(path.startswith(word) or word.startswith(path) for path in declared), word


@pytest.mark.parametrize("name", STAGES)
def test_stage_scripts_are_thin(name: str) -> None:
    lines = (ROOT / f"stages/{name}.py").read_text(encoding="utf-8").splitlines()
    assert sum(1 for line in lines if line.strip()) <= 65
    functions = [n for n in ast.parse("\n".join(lines)).body if isinstance(n, ast.FunctionDef)]
    assert [function.name for function in functions] == ["main"]


def test_imports_only_go_downward() -> None:
    graph = {path.stem: set[str]() for path in (ROOT / "qa").glob("[!_]*.py")}
    for stem, imports in graph.items():
        tree = ast.parse((ROOT / f"qa/{stem}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qa."):
                imports.add(str(node.module).removeprefix("qa."))
    while graph:
        leaves = [stem for stem, needs in graph.items() if not needs & graph.keys()]
        assert leaves, f"modules that import each other: {sorted(graph)}"
        for stem in leaves:
            del graph[stem]
