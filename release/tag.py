"""Release the INT8 model of this commit as a version: `make release VERSION=1.2.0`.

Refuses what could not be fetched and made again as it is; pushes, then tags. A push that is cut off
leaves no tag, and the same command goes on.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
from pathlib import Path

from dvc.repo import Repo
from scmrepo.exceptions import InvalidRemote
from scmrepo.git import Git

from bert_qa.errors import UserError, reading, run
from bert_qa.evaluation import check_f1_drop
from bert_qa.params import read_all_params
from release.dvc_remote import REMOTE, open_repo
from release.transfer import check_complete, push
from release.versions import (
    ARTIFACT,
    EVALUATION,
    check_version,
    own_checkout,
    register,
    without_password,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Release the INT8 model of this commit.")
    parser.add_argument("version", help="three numbers, higher than the last version")
    version = parser.parse_args().version
    with own_checkout(), open_repo() as repo:
        revision = repo.scm.get_rev()
        check_version(repo.scm, version)
        _check_clean(repo.scm)
        _check_gate()
        _check_reproduced(repo)
        pushed = push(repo)
        check_complete(repo)
        _check_clean(repo.scm)  # a push takes minutes, in which a file may change
        if repo.scm.get_rev() != revision:
            raise UserError("the commit changed during the push; run the same command again")
        tag = register(repo.scm, version, revision)
        print(f"{tag} made, {pushed} files pushed")
        print(f"publish it:  git push origin {tag}")
        where = f"{_origin(repo.scm)} {ARTIFACT} --rev v{version}{_remote_options(repo)}"
        print(f"fetch it:    dvc artifacts get {where}")


def _check_clean(scm: Git) -> None:
    staged, unstaged, untracked = scm.status(untracked_files="normal")
    changed = sorted({*(name for names in staged.values() for name in names), *unstaged})
    changed += sorted(untracked)
    if changed:
        more = " and more" if len(changed) > 3 else ""
        raise UserError(
            f"not committed: {', '.join(changed[:3])}{more}; commit or restore, since a version is"
            " a commit"
        )


def _check_gate() -> None:
    file = Path(EVALUATION)
    params = read_all_params()
    with reading(file, "run `dvc repro` and commit it"):
        metrics = json.loads(file.read_text(encoding="utf-8"))
        if "f1_difference" not in metrics.get("qat", {}):
            raise UserError(f"{file}: no qat.f1_difference in it; run `dvc repro` and commit it")
        check_f1_drop(metrics, params.evaluate.max_f1_drop)


def _check_reproduced(repo: Repo) -> None:
    stale = repo.status(targets=["dvc.yaml"])  # not the benchmark's, which no release needs
    if stale:
        raise UserError(
            f"not up to date: {', '.join(stale)}; run `dvc repro` and commit what it changed"
        )
    root = Path(repo.root_dir)
    for dependency in repo.index.deps:
        if not Path(dependency.fs_path).is_relative_to(root):
            raise UserError(
                f"{dependency}: outside the project, where nobody else has it; put it inside and"
                " name it so in params.yaml"
            )


def _origin(scm: Git) -> str:
    """Where others clone from."""
    try:
        return without_password(scm.get_remote_url("origin"))
    except InvalidRemote:
        return "URL"


def _remote_options(repo: Repo) -> str:
    """What git does not say of the remote: others have no .dvc/config.local."""
    known = repo.config.read("repo")["remote"][REMOTE]
    settings = repo.config["remote"][REMOTE]
    told = [
        f"{key}={settings[key]}"
        for key in ("account_name", "url")
        if settings.get(key) != known.get(key)
    ]
    return f" --remote-config {' '.join(told)}" if told else ""


if __name__ == "__main__":
    run(main)
