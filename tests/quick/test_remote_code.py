"""No code of a stranger runs: every loader is told so, and no prompt asks for it."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project

LOADERS = {"from_pretrained", "from_config", "load_dataset", "load_dataset_builder", "pipeline"}
FINDS_NO_CODE = {"PeftModel"}
"""Classes that are given a model and load nothing but tensors onto it."""


def calls_without(tree: ast.AST) -> Iterator[int]:
    """Lines of the calls of a loader that are not told trust_remote_code=False."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        of = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Name):
            name = node.func.id
        told = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if (
            name in LOADERS
            and told.get("trust_remote_code") != "False"
            and not (isinstance(of, ast.Name) and of.id in FINDS_NO_CODE)
        ):
            yield node.lineno


@pytest.mark.parametrize(
    "folder", ["cloud", "bert_qa", "benchmark", "release", "scripts", "stages", "tests"]
)
def test_every_loader_is_told_to_run_no_code_of_a_stranger(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in calls_without(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_what_readers_copy_is_told_so_too() -> None:
    """The snippets of the README, of docs/tables.md and of the model card."""
    pages = (ROOT / "README.md", ROOT / "docs/tables.md")
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    card = (ROOT / "bert_qa/model_card.md.jinja").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", shown, re.DOTALL)
    assert len(snippets) > 3
    for snippet in snippets:
        assert list(calls_without(ast.parse(snippet))) == []
    code = "".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    loaded = len(re.findall(r"\b(?:from_pretrained|pipeline)\(", code))
    assert loaded == code.count("trust_remote_code=False") == 5


def test_the_walk_finds_a_call_that_is_not_told() -> None:
    lines = [
        "AutoModel.from_pretrained(folder)",
        "load_dataset(name, trust_remote_code=True)",
        "pipeline('question-answering', trust_remote_code=trusted)",
        "AutoModel.from_pretrained(folder, trust_remote_code=False)",
    ]
    assert list(calls_without(ast.parse("\n".join(lines)))) == [1, 2, 3]


@pytest.mark.fault(
    "a model that brings code of its own", sees="no code is run: refused, or read without it"
)
@pytest.mark.parametrize("model_type", ["mine", "bert"])
def test_a_model_with_code_of_its_own_runs_none_and_asks_nothing(
    project: Project, tmp_path: Path, tiny_model: Path, model_type: str
) -> None:
    folder, ran = tmp_path / "theirs", tmp_path / "ran"
    shutil.copytree(tiny_model, folder)
    code = {"AutoConfig": "mine.C", "AutoModelForQuestionAnswering": "mine.M"}
    for name, auto_map in (
        ("config.json", code),
        ("tokenizer_config.json", {"AutoTokenizer": ["mine.T", "mine.T"]}),
    ):
        fields = json.loads((folder / name).read_text("utf-8"))
        fields |= {"auto_map": auto_map}
        fields |= {"model_type": model_type} if name == "config.json" else {}
        (folder / name).write_text(json.dumps(fields), encoding="utf-8")
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
    project.set(model__name="folder", model__folder=str(folder))
    done = project.run("python", "-m", "stages.download_model", input="y\ny\ny\n")
    assert not ran.exists()
    assert "[y/N]" not in done.stdout + done.stderr
    base = project.folder / "models/base"
    if model_type == "bert":  # a model that transformers knows, and its own code beside
        assert done.returncode == 0, done.stderr
        assert {file.name for file in base.iterdir()} == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert not any("auto_map" in file.read_text("utf-8") for file in base.glob("*.json"))
    else:
        assert done.returncode == 1
        assert done.stderr == (
            f"error: {folder}: config.json: model_type 'mine' is not a BERT-like encoder\n"
        )
        assert not base.exists()
