"""Versions of the INT8 model: released, listed, and fetched by people who have only a URL.

The two models that other tests look at, of one learning rate and another, are released from a
clone, against Azurite.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from azure.storage.blob import AccountSasPermissions
from dvc.repo import Repo

from bert_qa.errors import UserError, run
from release.dvc_remote import push
from release.tag import main
from release.versions import read_versions, without_password
from tests.azurite import Azurite, clone
from tests.conftest import Project, Retrained

VERSIONS = ("v1.0.0", "v1.1.0")
PACKAGE = "models/bert-qa-int8"


@dataclass
class Released:
    """A project with two versions: what it published, and what it had at each."""

    project: Project
    url: str
    printed: list[str]
    files: dict[str, dict[str, bytes]]
    answers: dict[str, bytes]
    azurite: Azurite


@pytest.fixture(scope="module")
def released(
    retrained: Retrained,
    azurite: Azurite,
    tmp_path_factory: pytest.TempPathFactory,
) -> Released:
    folder = tmp_path_factory.mktemp("release")
    project = clone(retrained.project, folder / "project", azurite)
    project.check("dvc", "cache", "dir", "--local", retrained.cache)
    setup = ("python", "-m", "release.set_up", "--account", "local", "--container", "released")
    project.check(*setup)
    made = Released(project, f"file://{folder}/public.git", [], {}, {}, azurite)

    def release(version: str) -> None:
        made.printed.append(project.check("python", "-m", "release.tag", version[1:]))
        package = project.folder / PACKAGE
        made.files[version] = {file.name: file.read_bytes() for file in package.iterdir()}
        made.answers[version] = (project.folder / "data/output.csv").read_bytes()

    project.git("reset", "-q", "--hard", "HEAD~1")
    project.check("dvc", "checkout", "-q")
    # As if the benchmark in git had measured this model: its lock, without the minutes of a run.
    project.check("dvc", "commit", "-q", "-f", "benchmark/dvc.yaml:benchmark")
    project.commit("benchmark")
    release(VERSIONS[0])
    project.git("cherry-pick", "origin/HEAD")
    project.check("dvc", "checkout", "-q", "-f")
    release(VERSIONS[1])
    project.git("clone", "-q", "--bare", ".", str(folder / "public.git"))
    return made


@pytest.fixture
def unreleased(released: Released, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project on a commit without a version, and in it; put back to the last one's."""
    project = released.project
    project.git("reset", "-q", "--hard", f"bert-qa-int8@{VERSIONS[-1]}")
    project.commit("next")
    monkeypatch.chdir(project.folder)
    return project


def refusal(
    version: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What `make release` says instead of releasing."""
    monkeypatch.setattr(sys, "argv", ["release.py", version])
    with pytest.raises(SystemExit) as exit_:
        run(main)
    assert exit_.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_a_release_says_how_to_publish_and_fetch_it(released: Released) -> None:
    assert released.project.git("tag", "--list").split() == [f"bert-qa-int8@{v}" for v in VERSIONS]
    for version, printed in zip(VERSIONS, released.printed, strict=True):
        tag = f"bert-qa-int8@{version}"
        origin = released.project.git("remote", "get-url", "origin").strip()
        made, publish, fetch = printed.splitlines()[-3:]
        assert made.startswith(f"{tag} made, ")
        assert publish == f"publish it:  git push origin {tag}"
        assert fetch == (
            f"fetch it:    dvc artifacts get {origin} bert-qa-int8 --rev {version}"
            " --remote-config account_name=local url=azure://released/dvc"
        )


def test_versions_are_listed_with_their_metrics(released: Released, tmp_path: Path) -> None:
    here = released.project.check("python", "-m", "release.list_versions")
    header, _, *rows = here.splitlines()
    assert header.split()[:2] == ["version", "questions"]
    assert [row.split()[0] for row in rows] == list(reversed(VERSIONS))
    for row in rows:
        tag = f"bert-qa-int8@{row.split()[0]}"
        text = released.project.git("show", f"{tag}:metrics/evaluation.json")
        metrics = json.loads(text)
        int8 = metrics["qat"]
        assert row.split()[1:6] == [
            str(metrics["questions"]),
            f"{int8['exact_match']:.2f}",
            f"{int8['f1']:.2f}",
            f"{int8['f1_difference']:+.2f}",
            f"{int8['size_mb']:.2f}",
        ]
    benchmark = json.loads((released.project.folder / "metrics/benchmark.json").read_text("utf-8"))
    speed = benchmark["contenders"]["this project, INT8"]["questions_per_second"]
    assert f"{speed:.0f} ({benchmark['questions']} questions" in rows[1]
    assert rows[0].endswith("not measured")  # the benchmark in git is of the other model
    assert released.project.check("python", "-m", "release.list_versions", released.url) == here


def test_each_version_is_fetched_by_a_url_and_answers(
    released: Released, azurite: Azurite, tmp_path: Path
) -> None:
    read_only = azurite.sas(AccountSasPermissions(read=True))
    consumer = clone(released.project, tmp_path / "clone", azurite)
    consumer.env["AZURE_STORAGE_CONNECTION_STRING"] = read_only
    origin = released.project.git("remote", "get-url", "origin").strip()
    for version, printed in zip(VERSIONS, released.printed, strict=True):
        consumer.folder = tmp_path / version
        consumer.folder.mkdir()
        command = printed.splitlines()[-1].removeprefix("fetch it:")
        consumer.check(*command.replace(origin, released.url).split())
        model = consumer.folder / "bert-qa-int8"
        assert {file.name: file.read_bytes() for file in model.iterdir()} == released.files[version]

        consumer.folder = tmp_path / "clone"
        consumer.git("checkout", "-q", f"bert-qa-int8@{version}")
        consumer.check("python", "-m", "stages.infer", "--model", str(model))
        answers = (consumer.folder / "data/output.csv").read_bytes()
        assert answers == released.answers[version]
    old, new = (released.files[version] for version in VERSIONS)
    assert {name for name in old if old[name] != new[name]} == {"README.md", "model.onnx"}


def test_a_version_is_a_revision_for_dvc_get(
    released: Released, azurite: Azurite, tmp_path: Path
) -> None:
    consumer = Project.__new__(Project)
    consumer.folder, consumer.env = tmp_path, released.project.env
    tag = f"bert-qa-int8@{VERSIONS[0]}"
    arguments = (released.url, f"{PACKAGE}/README.md", "--rev", tag)
    consumer.check("dvc", "get", *arguments, "--remote-config", "url=azure://released/dvc")
    assert (tmp_path / "README.md").read_bytes() == released.files[VERSIONS[0]]["README.md"]


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("1.2", "VERSION: found '1.2'; give three numbers"),
        ("v1.2.0", "VERSION: found 'v1.2.0'; give three numbers"),
        ("", "VERSION: found ''; give three numbers"),
        ("1.2.0-rc.1", "VERSION: found '1.2.0-rc.1'; give three numbers"),
        ("1.2.0+build", "VERSION: found '1.2.0+build'; give three numbers"),
        ("1.0.0", "VERSION: v1.0.0 exists; the last is v1.1.0, give a higher one"),
        ("1.0.5", "VERSION: found 1.0.5; the last is v1.1.0, give a higher one"),
    ],
)
def test_a_wrong_version_is_refused(
    unreleased: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
    says: str,
) -> None:
    assert says in refusal(version, monkeypatch, capsys)


def test_what_cannot_be_made_again_is_refused(
    unreleased: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (unreleased.folder / "note.txt").write_text("x", encoding="utf-8")
    assert "not committed: note.txt; commit or" in refusal("1.2.0", monkeypatch, capsys)
    (unreleased.folder / "note.txt").unlink()
    unreleased.set(evaluate__max_f1_drop=21.0)
    assert "not committed: params.yaml; commit or" in refusal("1.2.0", monkeypatch, capsys)

    unreleased.commit("another limit")
    says = "not up to date: check_params, evaluate; run `dvc repro` and commit"
    assert says in refusal("1.2.0", monkeypatch, capsys)

    path = unreleased.folder / "metrics/evaluation.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics["qat"]["f1_difference"] = -21.5
    path.write_text(json.dumps(metrics), encoding="utf-8")
    unreleased.commit("a worse model")
    says = "INT8 loses 21.50 points of F1, more than evaluate.max_f1_drop (21)"
    assert says in refusal("1.2.0", monkeypatch, capsys)

    unreleased.git("reset", "-q", "--hard", f"bert-qa-int8@{VERSIONS[-1]}")
    assert "this commit is v1.1.0 already" in refusal("1.2.0", monkeypatch, capsys)


@pytest.mark.parametrize("change", ["commit", "file"])
def test_what_changes_during_the_push_is_not_tagged(
    unreleased: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", unreleased.env["AZURE_STORAGE_CONNECTION_STRING"]
    )

    def slow(repo: Repo) -> int:
        (unreleased.folder / "note.txt").write_text("x", encoding="utf-8")
        if change == "commit":
            unreleased.commit("meanwhile")
        return push(repo)

    monkeypatch.setattr("release.tag.push", slow)
    says = {"commit": "the commit changed during the push", "file": "not committed: note.txt"}
    assert says[change] in refusal("1.2.0", monkeypatch, capsys)
    assert unreleased.git("tag", "--list").split() == [f"bert-qa-int8@{v}" for v in VERSIONS]
    unreleased.git("clean", "-q", "-f", "note.txt")


def test_a_model_of_files_elsewhere_is_refused(
    unreleased: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = tmp_path / "train.json"
    elsewhere.write_bytes((unreleased.folder / "data/sample/train.json").read_bytes())
    unreleased.set(dataset__train_file=str(elsewhere), dataset__name="files")
    unreleased.check("dvc", "commit", "-q", "-f", "download_dataset", "check_params", "export")
    unreleased.commit("a file of this machine")
    says = f"{elsewhere}: outside the project, where nobody else has it"
    assert says in refusal("1.2.0", monkeypatch, capsys)


def test_a_push_without_the_data_is_no_push(released: Released, tmp_path: Path) -> None:
    """A clone without cache, and a remote that has nothing: DVC alone says that all is well."""
    empty = clone(released.project, tmp_path / "clone", released.azurite)
    empty.check("python", "-m", "release.set_up", "--container", "empty")
    # The default is another remote, which the project's own push is not for.
    empty.check("dvc", "remote", "add", "-q", "--local", "--default", "other", str(tmp_path / "o"))
    printed = empty.check("python", "-m", "release.push").splitlines()
    assert printed[-2] == "0 files pushed"
    assert re.fullmatch(
        r"not in the remote: \S+ and \d+ more; run `dvc repro`, then `make push`",
        printed[-1],
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://github.com/o/r.git", "https://github.com/o/r.git"),
        ("https://user:token@github.com/o/r.git", "https://github.com/o/r.git"),
        ("https://token@github.com/o/r.git", "https://github.com/o/r.git"),
        ("ssh://git@github.com/o/r.git", "ssh://git@github.com/o/r.git"),
        ("ssh://git:secret@github.com:22/o/r.git", "ssh://git@github.com:22/o/r.git"),
        ("git@github.com:o/r.git", "git@github.com:o/r.git"),
        ("/srv/r.git", "/srv/r.git"),
    ],
)
def test_a_password_in_a_url_is_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_no_listing_shows_a_password() -> None:
    with pytest.raises(UserError) as raised:
        read_versions("https://user:sekret@127.0.0.1:1/none.git")
    assert "https://127.0.0.1:1/none.git: no repository to read" in str(raised.value)
    assert "sekret" not in str(raised.value)


def test_a_push_that_fails_leaves_no_tag(unreleased: Project, azurite: Azurite) -> None:
    whole = unreleased.env["AZURE_STORAGE_CONNECTION_STRING"]
    read_only = azurite.sas(AccountSasPermissions(read=True))
    unreleased.env["AZURE_STORAGE_CONNECTION_STRING"] = read_only
    unreleased.check("dvc", "remote", "modify", "--local", "azure", "url", "azure://released/other")
    try:
        done = unreleased.run("python", "-m", "release.tag", "1.2.0")
    finally:
        unreleased.env["AZURE_STORAGE_CONNECTION_STRING"] = whole
        unreleased.check(
            "dvc", "remote", "modify", "--local", "azure", "url", "azure://released/dvc"
        )
    assert done.returncode == 1
    assert done.stdout == ""
    says = "error: no permission to write to container released of "
    assert done.stderr.splitlines()[-1].startswith(says)
    assert "Traceback" not in done.stderr
    assert unreleased.git("tag", "--list").split() == [f"bert-qa-int8@{v}" for v in VERSIONS]


def test_a_project_without_versions_says_so(project: Project) -> None:
    printed = project.check("python", "-m", "release.list_versions")
    assert printed.startswith(".: no version of bert-qa-int8; ")
    with_password = f"file://user:sekret@{project.folder}"
    assert "sekret" not in project.check("python", "-m", "release.list_versions", with_password)
    done = project.run("python", "-m", "release.list_versions", "file:///nowhere.git")
    assert done.returncode == 1
    assert done.stderr.startswith("error: file:///nowhere.git: no repository to read ")
    assert done.stderr.count("\n") == 1


def test_a_checkout_of_somebody_else_is_told_git_s_remedy(project: Project) -> None:
    """As mounted into a container: git reads none that belongs to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    project.env["HOME"] = str(project.folder.parent)  # where nobody trusts any folder
    for path in (project.folder, *project.folder.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    for command in (["release.list_versions"], ["release.tag", "9.0.0"]):
        done = project.run("python", "-m", *command)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"error: {project.folder}: another user's checkout, which git does not read; if you"
            f" trust it: git config --global --add safe.directory {project.folder}\n"
        )


@pytest.mark.fault("metrics at a version's tag that are spoilt")
def test_a_version_with_spoilt_metrics_is_named(project: Project) -> None:
    (project.folder / "metrics/evaluation.json").write_text('{"int8": [', encoding="utf-8")
    project.commit("spoil the metrics")
    project.git("tag", "-a", "-m", "x", "bert-qa-int8@v1.0.0")
    done = project.run("python", "-m", "release.list_versions")
    assert done.returncode == 1
    assert done.stderr.startswith("error: metrics/evaluation.json or dvc.lock at v1.0.0: not what")
    assert done.stderr.count("\n") == 1
