"""Python files taken apart: definitions, what each is made of, and the names that it looks up.

Reads the sources and imports nothing. Knows what a file does when it is imported, and what reading
it cannot show, which is refused. Knows nothing of what calls what.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from bert_qa.errors import UserError

HARMLESS = frozenset(
    {
        "abstractmethod",
        "cache",
        "cached_property",
        "classmethod",
        "contextmanager",
        "dataclass",
        "field_validator",
        "lru_cache",
        "model_validator",
        "overload",
        "property",
        "setter",
        "staticmethod",
        "wraps",
    }
)
"""Decorators that do nothing but to what they decorate; any other may enter it somewhere."""

VALUES = frozenset(
    {
        "AfterValidator",
        "ConfigDict",
        "Field",
        "Path",
        "TypeVar",
        "compile",
        "dict",
        "field",
        "float",
        "frozenset",
        "int",
        "len",
        "max",
        "min",
        "range",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
    }
)
"""Functions of Python and of libraries whose calls give a value and do nothing else."""

UNSEEN = frozenset({"__import__", "eval", "exec", "globals"})
"""Functions by which code reaches other code that the sources do not name there."""

UNSEEN_OF_MODULES = frozenset(
    {
        "__getattr__",
        "__init_subclass__",
        "__subclasses__",
        "exec_module",
        "import_module",
        "reload",
        "resolve_name",
        "run_module",
        "run_path",
        "spec_from_file_location",
    }
)
"""The same, whether called alone, of a module or defined."""

BY_NAME = frozenset({"getattr", "setattr", "vars"})
"""The same, where they are called on a module; on objects they reach methods, which are taken in
with their class."""

LAYOUT = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER})
"""Tokens that no run can tell from their absence."""

MODULE = re.compile(r"[a-z_]+(?:[./][a-z_0-9]+)+")
"""What may be the name of a module, or its file."""

NAME = re.compile(r"[A-Za-z_]\w*")
ANNOTATION = re.compile(r"[\w.]+(?:[\[\]|, ]+[\w.]+)*\]*")
"""What may be a type: names, with brackets, bars and commas between them."""


Imports = Mapping[str, Collection[str]]
"""By the name that imports bind, what each of them stands for: `bert_qa.errors.run`."""


@dataclass
class Definition:
    """A function, a class, a method, or a statement of a module.

    Attributes:
        name: as other code calls it, without the module: `Engine.read`.
        text: its source, without comments, docstrings and layout.
        uses: the names that it may look up in its module.
        imports: by the name that is bound inside, what that may stand for.
        line: where it begins in its module.
    """

    module: str
    name: str
    text: str
    uses: frozenset[str]
    imports: Imports
    line: int


@dataclass
class Module:
    """A file of the project.

    Attributes:
        names: by name, the definitions that bind it; a class with all of its methods.
        imports: of the module itself, wherever in it.
        effects: statements that run when the module is imported, whoever uses what of it.
        loads: modules that are imported with it.
    """

    names: dict[str, list[Definition]] = field(default_factory=dict)
    imports: dict[str, set[str]] = field(default_factory=dict)
    effects: list[Definition] = field(default_factory=list)
    loads: set[str] = field(default_factory=set)


class Reader:
    """Takes one file apart."""

    def __init__(self, name: str, path: Path, folders: frozenset[str]) -> None:
        self.name, self.path, self.folders, self.module = name, path, folders, Module()
        try:
            self.source = path.read_text(encoding="utf-8")
            tree = ast.parse(self.source)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise UserError(f"{path}:{line}: not Python ({error}); fix it") from None
        self.lines = _lines(self.source)
        self.strings = {  # docstrings: statements that do nothing
            (node.lineno, _column(self.lines, node)): node.end_lineno or node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        }
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.imports = {
            id(node): list(_bound(node, package))
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        # What this file or another one of the project defines may do anything.
        self.ours = {name for node in ast.walk(tree) for name in _binds(node)} | {
            name
            for bound in self.imports.values()
            for name, target in bound
            if target.partition(".")[0] in folders
        }
        self.tree = tree
        for node in tree.body:
            self._read(node)
        self._read_unused_imports()

    def refuse_unseen(self) -> None:
        """Refuse a file that reaches code which it does not name.

        Raises:
            UserError: it does; the message has the line.
        """
        for node in ast.walk(self.tree):
            if (what := self._unseen(node)) is not None:
                raise UserError(
                    f"{self.path}:{getattr(node, 'lineno', 1)}: {what}, behind which the digests of"
                    " the stages see nothing; name the definition that is meant"
                )

    def _read(self, node: ast.stmt) -> None:
        if id(node) in self.imports:
            self._import(node)
        elif _is_for_types(node):
            self._read_types(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._define(node.name, [self._definition(node.name, node)], self._acts(node))
        elif isinstance(node, ast.ClassDef):
            self._define(node.name, self._class(node), self._acts(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and (names := _assigned(node)):
            definition = self._definition(names[0], node)
            for name in names:
                self._define(name, [definition], self._does(node.value))
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            # Whatever else stands in a module: an `if`, a `with`, a call. It may bind names too.
            definition = self._definition("<module>", node)
            self.module.effects.append(definition)
            for inner in ast.walk(node):
                if id(inner) in self.imports:
                    self._import(inner)
                for name in _binds(inner):
                    self.module.names.setdefault(name, []).append(definition)

    def _read_types(self, node: ast.If) -> None:
        """Read `if TYPE_CHECKING:`, which runs nothing: only what its names stand for counts."""
        for inner in node.body:
            for name, target in self.imports[id(inner)]:
                self.module.imports.setdefault(name, set()).add(target)

    def _import(self, node: ast.AST) -> None:
        for name, target in self.imports[id(node)]:
            self.module.imports.setdefault(name, set()).add(target)
            self.module.loads.add(target)

    def _read_unused_imports(self) -> None:
        """Take what is imported and never named for a statement: it is imported for its effect.

        What `__all__` names is imported for others, and reached where they ask for it.
        """
        used = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        used |= {
            str(text.value)
            for node in self.tree.body
            if isinstance(node, ast.Assign) and _assigned(node) == ["__all__"]
            for text in ast.walk(node.value)
            if isinstance(text, ast.Constant)
        }
        used |= {
            name
            for node in self.tree.body
            if _is_for_types(node)
            for inner in node.body
            for name, _ in self.imports[id(inner)]
        }
        for name, targets in self.module.imports.items():
            if name not in used and not any(t.startswith("__future__") for t in targets):
                text = f"import {' '.join(sorted(targets))}"
                effect = Definition(self.name, "<module>", text, frozenset({name}), {}, 0)
                self.module.effects.append(effect)

    def _define(self, name: str, definitions: list[Definition], effect: bool) -> None:
        self.module.names.setdefault(name, []).extend(definitions)
        if effect:
            self.module.effects += definitions

    def _does(self, *nodes: ast.AST | None) -> bool:
        """Whether computing values may do more than give them."""
        return any(
            isinstance(each, ast.NamedExpr)
            or (isinstance(each, ast.Call) and not self._known(each.func, VALUES))
            for node in nodes
            if node is not None
            for each in ast.walk(node)
        )

    def _known(self, function: ast.expr, known: frozenset[str]) -> bool:
        """Whether a function is one of those that are known, and not the project's own."""
        root: ast.expr = function
        while isinstance(root, ast.Attribute):
            root = root.value
        name = function.attr if isinstance(function, ast.Attribute) else getattr(root, "id", "")
        return name in known and getattr(root, "id", "") not in self.ours - {"setter"}

    def _acts(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
        """Whether a definition does something when its module is imported.

        Decorators may enter it somewhere, defaults and the body of a class may call what does.
        """
        decorators = [
            each.func if isinstance(each, ast.Call) else each for each in node.decorator_list
        ]
        if not all(self._decorates(each) for each in decorators):
            return True
        if not isinstance(node, ast.ClassDef):
            return self._does(*node.args.defaults, *node.args.kw_defaults)
        inside = [
            self._acts(each)
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            else self._does(each)
            for each in node.body
        ]
        return bool(node.keywords) or any(inside)

    def _decorates(self, decorator: ast.expr) -> bool:
        if isinstance(decorator, ast.Attribute) and decorator.attr == "setter":
            return True  # of a property in the same class
        return self._known(decorator, HARMLESS)

    def _unseen(self, node: ast.AST) -> str | None:
        """How a node reaches code that the sources do not name there, if it does."""
        names: set[str] = set()
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return f"`from {node.module} import *`"
            names = {alias.name for alias in node.names} & (UNSEEN_OF_MODULES | UNSEEN)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname is None and alias.name.partition(".")[0] in self.folders:
                    return f"`import {alias.name}` without `as`"
        elif isinstance(node, ast.Attribute):
            of_python = isinstance(node.value, ast.Name) and node.value.id == "builtins"
            names = {node.attr} & (UNSEEN_OF_MODULES | (UNSEEN if of_python else set()))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = {node.name} & UNSEEN_OF_MODULES
        elif isinstance(node, ast.Name):
            names = {node.id} & (UNSEEN | UNSEEN_OF_MODULES)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            first = node.args[0]
            imported = {name for bound in self.imports.values() for name, _ in bound}
            if node.func.id in BY_NAME and isinstance(first, ast.Name) and first.id in imported:
                return f"`{node.func.id}({first.id}, ...)`"
        return f"`{min(names)}`" if names else None

    def _class(self, node: ast.ClassDef) -> list[Definition]:
        """A class as one definition for each method, and one for all else of it."""
        methods = [
            each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        found = [self._definition(node.name, node, without=methods)]
        return found + [self._definition(f"{node.name}.{m.name}", m) for m in methods]

    def _definition(
        self, name: str, node: ast.stmt, without: Iterable[ast.stmt] = ()
    ) -> Definition:
        left_out = {id(each) for some in without for each in ast.walk(some)}
        nodes = [each for each in ast.walk(node) if id(each) not in left_out]
        uses = {each.id for each in nodes if isinstance(each, ast.Name)}
        docstrings = {id(each.value) for each in nodes if isinstance(each, ast.Expr)}
        imports: dict[str, set[str]] = {}
        for each in nodes:
            for bound, target in self.imports.get(id(each), []):
                imports.setdefault(bound, set()).add(target)
            if (
                isinstance(each, ast.Constant)
                and isinstance(each.value, str)
                and id(each) not in docstrings
            ):
                # An annotation, or modules that are run by their names.
                if ANNOTATION.fullmatch(each.value):
                    uses |= set(NAME.findall(each.value))
                whole = MODULE.fullmatch(each.value) or "import " in each.value
                for dotted in MODULE.findall(each.value) if whole else ():
                    target = dotted.removesuffix(".py").replace("/", ".")
                    if target.partition(".")[0] in self.folders:
                        imports.setdefault(dotted, set()).add(target)
        ranges = [(_first_line(each), each.end_lineno or 0) for each in without]
        # Where a function imports a name of the project from is no part of its text: what the name
        # stands for counts, and where in the function it is imported.
        bound_once = {
            bound for bound, count in Counter(_names(self.imports, nodes)).items() if count == 1
        }
        shortened = {
            each.lineno: (
                each.end_lineno or 0,
                " ".join(name for name, _ in self.imports[id(each)]),
            )
            for function in nodes
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
            for each in function.body
            if id(each) in self.imports
            and all(
                bound in bound_once and target.partition(".")[0] in self.folders
                for bound, target in self.imports[id(each)]
            )
            and self._is_alone(each)
        }
        return Definition(
            self.name,
            name,
            self._text(node, ranges, shortened),
            frozenset(uses),
            imports,
            node.lineno,
        )

    def _is_alone(self, node: ast.stmt) -> bool:
        """Whether a statement's lines hold nothing else."""
        lines = self.lines[node.lineno - 1 : node.end_lineno]
        rest = lines[-1].encode()[node.end_col_offset or 0 :].decode().strip()
        before = lines[0][: _column(self.lines, node)].strip()
        return not before and (not rest or rest.startswith("#"))

    def _text(
        self,
        node: ast.stmt,
        without: list[tuple[int, int]],
        shortened: Mapping[int, tuple[int, str]],
    ) -> str:
        """The tokens of a statement, a space between them: the same for any layout.

        Args:
            without: ranges of lines to leave out, first and last.
            shortened: by the first line of an import, its last one and the names that it binds.
        """
        first, last = _first_line(node), node.end_lineno or 0
        kept = [
            line if not any(a <= number <= b for a, b in without) else "\n"
            for number, line in enumerate(self.lines[first - 1 : last], first)
        ]
        for start, (end, names) in shortened.items():
            line = kept[start - first]
            if line.strip():  # and not left out
                kept[start - first] = f"{line[: len(line) - len(line.lstrip())]}import {names}\n"
                kept[start - first + 1 : end - first + 1] = ["\n"] * (end - start)
        indent = len(kept[0]) - len(kept[0].lstrip())
        text = "".join(kept)
        if indent:  # a method: as the body of something, so that it is Python by itself
            text = "if 1:\n" + text
        return " ".join(self._tokens(text, first - 1 - bool(indent)))

    def _tokens(self, text: str, before: int) -> Iterator[str]:
        lines = _lines(text)
        started: list[tuple[int, int]] = []  # of f-strings, which Python 3.12 takes apart
        skipped = 0  # up to which line a docstring is
        try:
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                kind = tokenize.tok_name[token.type]
                if kind == "FSTRING_START":
                    started.append(token.start)
                elif kind == "FSTRING_END":
                    start = started.pop()
                    if not started:
                        yield _between(lines, start, token.end)
                elif started or token.type in LAYOUT:
                    continue
                elif kind == "STRING":
                    place = (token.start[0] + before, token.start[1])
                    skipped = max(skipped, self.strings.get(place, 0))
                    if place[0] > skipped:
                        yield token.string
                elif kind == "NEWLINE" and token.start[0] + before <= skipped:
                    continue
                elif kind in ("NEWLINE", "INDENT", "DEDENT"):
                    yield kind
                else:
                    yield token.string
        except (tokenize.TokenError, IndentationError) as error:
            raise UserError(f"{self.path}: cannot be taken apart ({error})") from None


def _is_for_types(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether a statement is `if TYPE_CHECKING:` with imports in it and nothing else."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        and not node.orelse
        and all(isinstance(inner, (ast.Import, ast.ImportFrom)) for inner in node.body)
    )


def _bound(node: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """The names that an import binds, each with what it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], alias.name
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        base = parts[: len(parts) + 1 - node.level] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            yield alias.asname or alias.name, f"{origin}.{alias.name}"


def _names(
    imports: Mapping[int, Iterable[tuple[str, str]]], nodes: Iterable[ast.AST]
) -> Iterator[str]:
    """The names that the imports among nodes bind, each as often as it is bound."""
    return (bound for node in nodes for bound, _ in imports.get(id(node), ()))


def _assigned(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names that are assigned to; none where something else is, such as an attribute."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = []
    for target in targets:
        parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
        if not all(isinstance(part, ast.Name) for part in parts):
            return []
        names += [part.id for part in parts if isinstance(part, ast.Name)]
    return names


def _binds(node: ast.AST) -> list[str]:
    """The names that a node inside another statement may bind in the module."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    return [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []


def _lines(source: str) -> list[str]:
    """Lines as Python counts them, which knows fewer ends of lines than `str.splitlines`."""
    return io.StringIO(source).readlines()


def _column(lines: list[str], node: ast.stmt) -> int:
    """Where a statement begins in its line, in characters; `ast` counts bytes."""
    return len(lines[node.lineno - 1].encode()[: node.col_offset].decode())


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    lines: list[int] = [decorator.lineno for decorator in decorators]
    return min([node.lineno, *lines])


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The source from one place, line and column, to another."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])
