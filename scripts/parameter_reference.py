"""Write docs/parameters.md: every key of params.yaml, from the models that check it.

What a key means is the docstring below its field in bert_qa/params.py; what it may be, its type;
what it is by default, params.yaml.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bert_qa import params
from bert_qa.errors import run
from bert_qa.files import whole_file
from bert_qa.params import PARAMS_FILE, Params

OUT = Path("docs/parameters.md")

HEAD = """# Parameters

Every key of `params.yaml`: what it is by default, what it may be, and what it means. Set a key for
one run with `dvc exp run -S section.key=value`, or in the file. `make docs` writes this page from
`bert_qa/params.py`.
"""


def main() -> None:
    with whole_file(OUT) as partial:
        partial.write_text(reference(PARAMS_FILE.read_text(encoding="utf-8")), encoding="utf-8")
    print(OUT)


def reference(defaults_yaml: str) -> str:
    """The page as Markdown; `defaults_yaml` is what params.yaml has."""
    defaults = YAML(typ="safe").load(defaults_yaml)
    parts = [HEAD]
    for section, field in Params.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)  # noqa: S101  # of all sections
        schema = Params.model_json_schema()["$defs"][model.__name__]
        meanings = dict(_meanings(model))
        parts.append(f"## {section}\n\n{inspect.getdoc(model)}\n")
        lines = ["| key | default | may be | meaning |", "| --- | --- | --- | --- |"]
        for key, default in defaults[section].items():
            allowed = _allowed(schema["properties"][key])
            lines.append(f"| `{key}` | `{_shown(default)}` | {allowed} | {meanings[key]} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _meanings(model: type) -> Iterator[tuple[str, str]]:
    """Fields of a model, its bases' first, each with the docstring below it."""
    tree = ast.parse(inspect.getsource(params))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for base in reversed(model.__mro__):
        body = classes[base.__name__].body if base.__name__ in classes else []
        for field, below in pairwise(body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    yield name, " ".join(text.split())


def _allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{_shown(value)}`" for value in values)
    if schema["type"] == "array":
        return f"a list: {_allowed(schema['items'])}"
    kinds = {"integer": "an integer", "number": "a number", "boolean": "`true`, `false`"}
    kinds |= {"string": "a text", "null": "`null`"}
    limits = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", ">="),
            ("exclusiveMinimum", ">"),
            ("maximum", "<="),
            ("exclusiveMaximum", "<"),
        )
        if key in schema and abs(schema[key]) < 2**31  # beyond, it is what any library takes
    ]
    return f"{kinds[schema['type']]} {', '.join(limits)}".rstrip()


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


if __name__ == "__main__":
    run(main)
