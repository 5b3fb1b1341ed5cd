"""What code each stage can reach: a digest for every definition, and the version of every library.

DVC runs a stage again when its file of digests changes, and not for a comment, a docstring or code
that the stage never calls. What cannot be resolved counts as reached; how files are taken apart is
in `bert_qa.source_code`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from bert_qa.errors import UserError
from bert_qa.source_code import Definition, Module, Reader

PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;#]+)", re.MULTILINE)


class Sources:
    """The project's Python files, read and taken apart.

    Args:
        root: of the project.
        folders: those below it that hold code, by the names that they are imported by.
        refuse: whether code that cannot be seen is an error.
    """

    def __init__(self, root: Path, folders: Collection[str], *, refuse: bool = True) -> None:
        self.modules: dict[str, Module] = {}
        self.files: dict[str, Path] = {}
        self.others = {  # templates, say
            str(path.relative_to(root)): path
            for folder in folders
            for path in sorted((root / folder).rglob("*"))
            if path.is_file() and path.suffix not in {".py", ".pyc"}
        }
        for folder in folders:
            for path in sorted((root / folder).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                reader = Reader(name, path, frozenset(folders))
                if refuse:
                    reader.refuse_unseen()
                self.modules[name], self.files[name] = reader.module, path

    def reached(self, start: str) -> list[Definition]:
        """All definitions that running a module as a script can reach, in no order.

        Raises:
            KeyError: there is no such module.
        """
        found: dict[int, Definition] = {}
        loaded: set[str] = set()
        todo: list[Definition] = list(self._loaded(start, loaded))
        todo += [each for some in self.modules[start].names.values() for each in some]
        while todo:
            definition = todo.pop()
            if id(definition) in found:
                continue
            found[id(definition)] = definition
            module = self.modules[definition.module]
            for name in definition.uses:
                todo += module.names.get(name, [])
            for target in self._targets(definition):
                todo += self._loaded(self._split(target)[0], loaded)
                todo += self._named(target)
        return list(found.values())

    def imported(self, start: str) -> set[str]:
        """The modules of the project that importing one imports, itself included."""
        loaded: set[str] = set()
        for _ in self._loaded(start, loaded):
            pass
        return loaded

    def _loaded(self, name: str, loaded: set[str]) -> Iterator[Definition]:
        """What runs when a module is imported for the first time."""
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        if not name or name in loaded:
            return
        loaded.add(name)
        yield from self._loaded(name.rpartition(".")[0], loaded)
        module = self.modules[name]
        yield from module.effects
        for other in sorted(module.loads):
            yield from self._loaded(other, loaded)

    def _targets(self, definition: Definition) -> Iterator[str]:
        """What the names that a definition uses were imported as."""
        imports = self.modules[definition.module].imports
        for name in definition.uses:
            yield from imports.get(name, ())
        for targets in definition.imports.values():
            yield from targets

    def _split(self, target: str) -> tuple[str, str]:
        """The module of the project in a dotted name, and what is left of the name."""
        module, rest = target, ""
        while module and module not in self.modules:
            module, _, last = module.rpartition(".")
            rest = f"{last}.{rest}" if rest else last
        return module, rest

    def _ends(self, target: str) -> set[str]:
        """What a dotted name stands for in the end, where modules hand names of others on."""
        ends: set[str] = set()
        todo, seen = [target], {target}
        while todo:
            dotted = todo.pop()
            module, rest = self._split(dotted)
            name = rest.partition(".")[0]
            handed_on = self.modules[module].imports if module else {}
            if not module or not rest or name in self.modules[module].names:
                ends.add(dotted)
            # All that a module has may be asked of it.
            asked = handed_on.values() if not rest else [handed_on.get(name, set())]
            further = {each for some in asked for each in some} - seen if module else set()
            todo += further
            seen |= further
        return ends

    def _named(self, target: str) -> list[Definition]:
        """The definitions that a dotted name stands for; of a module, all that it has."""
        found: list[Definition] = []
        for end in self._ends(target):
            module, rest = self._split(end)
            if module and rest:
                found += self.modules[module].names[rest.partition(".")[0]]
            elif module:
                found += [each for some in self.modules[module].names.values() for each in some]
        return found

    def libraries(self, definitions: Iterable[Definition]) -> set[str]:
        """The packages, outside the project and Python, that definitions import from."""
        tops = {
            end.partition(".")[0]
            for definition in definitions
            for target in self._targets(definition)
            for end in self._ends(target)
            if not self._split(end)[0]
        }
        return tops - sys.stdlib_module_names - {"__future__"}

    def named_files(self, definitions: Iterable[Definition]) -> dict[str, str]:
        """By path, the digest of each file beside the code that definitions name in a string."""
        text = "\n".join(each.text for each in definitions)
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            for name, path in self.others.items()
            if re.search(rf"[\"'/]{re.escape(path.name)}[\"']", text)
        }

    def digests(self, definitions: list[Definition]) -> dict[str, str | list[str]]:
        """By name, the digest of each definition; of several of one name, a list.

        A digest covers the text and what its names stand for, as far as the text does not tell:
        a library's, and which of several definitions of one name.
        """
        several: dict[str, set[str]] = {}
        homes: dict[str, set[str]] = {}
        for definition in definitions:
            several.setdefault(definition.name, set()).add(definition.text)
            homes.setdefault(definition.name, set()).add(definition.module)
        # Of one name in one module, such as its statements, the order counts.
        texts: dict[tuple[str, str], list[str]] = {}
        for definition in sorted(definitions, key=lambda each: (each.module, each.line)):
            meant = sorted(set(self._meant(definition, several, homes)))
            text = "\n".join([definition.text, *meant])
            texts.setdefault((definition.name, definition.module), []).append(text)
        found: dict[str, list[str]] = {}
        for (name, _), some_texts in texts.items():
            digest = hashlib.sha256("\n".join(some_texts).encode()).hexdigest()[:16]
            found.setdefault(name, []).append(digest)
        return {
            name: some[0] if len(some) == 1 else sorted(some)
            for name, some in sorted(found.items())
        }

    def _meant(
        self,
        definition: Definition,
        several: Mapping[str, set[str]],
        homes: Mapping[str, set[str]],
    ) -> Iterator[str]:
        """What a definition's names stand for, where its text and their names do not tell."""
        module = self.modules[definition.module]
        for name in definition.uses:
            targets = {*module.imports.get(name, ()), *definition.imports.get(name, ())}
            ends = {end for target in targets for end in self._ends(target)}
            for end in ends:
                if not self._split(end)[0]:
                    yield f"{name} = {end}"
            named = [each for target in targets for each in self._named(target)]
            for each in named or module.names.get(name, []):
                top = each.name.partition(".")[0]
                if top != name:  # imported under another name
                    yield f"{name} = {top}"
                if len(several.get(each.name, ())) > 1:
                    yield f"{name} = {hashlib.sha256(each.text.encode()).hexdigest()}"
                elif named and len(homes.get(each.name, ())) > 1:  # equal, of other constants
                    yield f"{name} = {each.module}"


def stage_digests(
    root: Path, folders: Collection[str], scripts: Mapping[str, str], pins: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """The digests of each stage.

    Args:
        root: of the project.
        folders: of its code, the scripts' included.
        scripts: by stage, its script as a module: `stages.train`.
        pins: by distribution, in lower case with `-`, its version.

    Returns:
        By stage `code`, as `Sources.digests` and `Sources.named_files`, and `libraries`, the
        version of each distribution that the code imports from; None where none is pinned.

    Raises:
        UserError: a file is not Python, or uses what cannot be seen.
    """
    sources = Sources(root, folders)
    found: dict[str, dict[str, object]] = {}
    for stage, script in scripts.items():
        definitions = sources.reached(script)
        found[stage] = {
            "code": sources.digests(definitions) | sources.named_files(definitions),
            "libraries": pinned(sources.libraries(definitions), pins),
        }
    return found


@cache
def _distributions() -> Mapping[str, Sequence[str]]:
    return packages_distributions()


def pinned(packages: Iterable[str], pins: Mapping[str, str]) -> dict[str, str | None]:
    """The versions of the distributions that packages are from; None where none is pinned."""
    distributions = _distributions()
    names = {
        _normal(distribution)
        for package in packages
        for distribution in distributions.get(package, [package])
    }
    return {name: pins.get(name) for name in sorted(names)}


def read_pins(files: Iterable[Path]) -> dict[str, str]:
    """By distribution, in lower case with `-`, the version that requirements files pin.

    Raises:
        UserError: a file cannot be read.
    """
    pins: dict[str, str] = {}
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read ({error}); git checkout {file}") from None
        pins |= {_normal(name): version for name, version in PIN.findall(text)}
    return pins


def write_digests(folder: Path, digests: Mapping[str, Mapping[str, object]]) -> None:
    """Write a JSON file a stage into an existing folder."""
    for stage, content in digests.items():
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / f"{stage}.json").write_text(text + "\n", encoding="utf-8")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
