"""The released versions of the INT8 model: git tags in GTO's format, and what each scored.

Knows which versions there are, which may come next, and where a version's figures lie in git.
Knows nothing of the DVC remote, where the models are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml
from dvc.fs import GitFileSystem
from gto.exceptions import GTOException
from gto.registry import GitRegistry
from gto.versions import SemVer
from pygit2 import GitError
from scmrepo.exceptions import SCMError
from scmrepo.git import Git
from tabulate import tabulate

from bert_qa.errors import UserError, first_sentence, reading

ARTIFACT = "bert-qa-int8"
"""Its name in dvc.yaml and in tags."""

EVALUATION, BENCHMARK = "metrics/evaluation.json", "metrics/benchmark.json"
MODELS = ("models/onnx/qat", "models/onnx/int8")
"""Where the INT8 model lies: today, and at the tags of before."""

PROJECT_INT8 = "this project, INT8"
"""The benchmark's name of this model, in the files that it wrote: `benchmark.contenders`."""


@dataclass(frozen=True)
class Version:
    """One released version.

    Attributes:
        name: `v1.2.0`.
        metrics: what evaluate wrote; None when git has none at its tag.
        benchmark: what the benchmark wrote of this very model; None when it measured none or
            another.
    """

    name: str
    metrics: dict[str, Any] | None
    benchmark: dict[str, Any] | None


def register(scm: Git, version: str, revision: str) -> str:
    """Tag a commit as a version: `1.2.0`.

    Returns:
        The tag: `bert-qa-int8@v1.2.0`.

    Raises:
        UserError: git refuses.
    """
    try:
        with GitRegistry.from_scm(scm) as registry:
            done = registry.register(ARTIFACT, rev=revision, version=f"v{version}", simple=True)
    except (GTOException, SCMError) as error:
        raise UserError(f"git: no tag made ({first_sentence(error)})") from None
    return str(done.tag)


@contextmanager
def own_checkout() -> Iterator[None]:
    """Turn git's refusal to read somebody else's checkout into one line with git's remedy.

    Raises:
        UserError: what is read inside the block belongs to another user.
    """
    try:
        yield
    except GitError as error:
        found = re.search(r"repository path '(.*)' is not owned by current user", str(error))
        if not found:
            raise UserError(f"git: {first_sentence(error)}") from None
        raise UserError(
            f"{found[1]}: another user's checkout, which git does not read; if you trust it:"
            f" git config --global --add safe.directory {found[1]}"
        ) from None


def check_version(scm: Git, version: str) -> None:
    """Refuse what cannot be the current commit's version.

    Raises:
        UserError: not three numbers, not higher than every version that this clone knows, or the
            current commit has one.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise UserError(
            f"VERSION: found '{version}'; give three numbers, as in make release VERSION=1.2.0"
        )
    try:
        with GitRegistry.from_scm(scm) as registry:
            artifact = registry.find_artifact(ARTIFACT, create_new=True)
            found = artifact.get_versions(active_only=False)
    except (GTOException, SCMError) as error:
        raise UserError(f"git: tags cannot be read ({first_sentence(error)})") from None
    if not found:
        return
    last = found[0].version
    if f"v{version}" in {other.version for other in found}:
        raise UserError(f"VERSION: v{version} exists; the last is {last}, give a higher one")
    if SemVer(f"v{version}") < SemVer(last):
        raise UserError(f"VERSION: found {version}; the last is {last}, give a higher one")
    here = {other.commit_hexsha: other.version for other in found}.get(scm.get_rev())
    if here:
        raise UserError(f"this commit is {here} already; commit what is to be a new version first")


def read_versions(repository: str) -> list[Version]:
    """The released versions of a repository, newest first.

    Args:
        repository: a checkout, or a URL that git can clone.

    Raises:
        UserError: it is neither.
    """
    try:
        with own_checkout(), GitRegistry.from_url(repository) as registry:
            artifact = registry.find_artifact(ARTIFACT, create_new=True)
            return [
                _read_version(version.version, registry.scm.get_fs(version.commit_hexsha))
                for version in artifact.get_versions()
            ]
    except (GTOException, SCMError) as error:
        shown = without_password(repository)
        reason = first_sentence(error).replace(repository, shown)
        raise UserError(
            f"{shown}: no repository to read ({reason}); give a checkout or what `git clone` takes"
        ) from None


def without_password(url: str) -> str:
    """A URL of a git repository as it may be shown: ssh keeps its user, https nothing before @."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}@{host}" if parts.scheme == "ssh" else host
    return urlunsplit(parts._replace(netloc=shown))


def _read_version(name: str, files: GitFileSystem) -> Version:
    with reading(f"{EVALUATION} or dvc.lock at {name}", "a tag cannot be changed: release anew"):
        return _figures(name, files)


def _figures(name: str, files: GitFileSystem) -> Version:
    metrics = json.loads(files.read_bytes(EVALUATION)) if files.exists(EVALUATION) else {}
    if "int8" in metrics:  # as earlier versions called it
        metrics["qat"] = metrics.pop("int8")
    comparable = "f1_difference" in metrics.get("qat", {})  # the first commits' has none
    return Version(name, metrics if comparable else None, _own_benchmark(files))


def _own_benchmark(files: GitFileSystem) -> dict[str, Any] | None:
    """The benchmark in git, if it measured the model of the same commit.

    DVC's locks tell: the benchmark's which model it read and what it wrote, the pipeline's which
    model it made.
    """
    names = ("benchmark/dvc.lock", "dvc.lock", BENCHMARK)
    if not all(files.exists(name) for name in names):
        return None
    locks = [yaml.safe_load(files.read_bytes(name))["stages"] for name in names[:2]]
    measured, made = locks[0].get("benchmark", {}), locks[1].get("export", {})
    content = files.read_bytes(BENCHMARK)
    written = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if _hash(measured, "outs", BENCHMARK) != written:
        return None
    models = [(_hash(measured, "deps", path), _hash(made, "outs", path)) for path in MODELS]
    if not any(read is not None and read == written for read, written in models):
        return None
    benchmark: dict[str, Any] = json.loads(content)
    return benchmark if PROJECT_INT8 in benchmark.get("contenders", {}) else None


def _hash(stage: dict[str, Any], kind: str, path: str) -> str | None:
    """The hash of a dependency or an output of a stage, as a lock records it."""
    return {entry["path"]: entry.get("md5") for entry in stage.get(kind, [])}.get(path)


def summary(versions: Sequence[Version]) -> str:
    """Versions and their figures as a small table for a terminal."""
    rows = []
    for version in versions:
        if version.metrics is None:
            rows.append([version.name, *[""] * 5, f"no figures in {EVALUATION} at its tag"])
            continue
        row = version.metrics["qat"]
        speed = "not measured"
        if version.benchmark is not None:
            contender = version.benchmark["contenders"][PROJECT_INT8]
            speed = (
                f"{contender['questions_per_second']:.0f} ({version.benchmark['questions']}"
                f" questions, {version.benchmark['machine']})"
            )
        figures = [f"{row[key]:.2f}" for key in ("exact_match", "f1")]
        difference, size = f"{row['f1_difference']:+.2f}", f"{row['size_mb']:.2f}"
        questions = str(version.metrics["questions"])
        rows.append([version.name, questions, *figures, difference, size, speed])
    headers = ["version", "questions", "exact match", "F1", "F1 - FP32", "MB", "questions/s"]
    align = ("left", *["right"] * 5, "left")
    table: str = tabulate(rows, headers, disable_numparse=True, colalign=align)
    return table
