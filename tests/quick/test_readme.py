"""README.md and what it points to."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT, Project

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_picture_and_the_results_come_first() -> None:
    top = README.splitlines()[:40]
    assert any(line.startswith("![") for line in top)
    assert any(line.startswith("| INT8") for line in top)


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert "LICENSE" in links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_licence_is_apache_s_own_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for folder in ("data/sample/", "models/minilm-squad/"):
        assert folder in notice


def test_a_broken_note_of_dvc_is_removed_as_the_readme_says(project: Project) -> None:
    (project.folder / "dvc.yaml").write_text(
        "stages:\n  one:\n    cmd: echo 1 > one\n    outs: [one]\n", encoding="utf-8"
    )
    note = Path(project.folder, ".dvc/tmp/rwlock")
    note.parent.mkdir(parents=True)
    note.write_text("")
    done = project.run("dvc", "repro")
    said = " ".join(done.stderr.split())
    assert done.returncode != 0
    readme = " ".join(README.split())
    message = "Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure is corrupted"
    assert message in said
    assert message in readme
    remedy = re.search(r"`(rm -f \.dvc/tmp/rwlock [^`]*)`", readme)
    assert remedy is not None
    project.check("sh", "-c", remedy[1])
    project.check("dvc", "repro")


def test_what_dvc_plots_show_leaves_is_in_no_commit(project: Project) -> None:
    """`make release` refuses a checkout with files that git does not know."""
    (project.folder / "dvc_plots").mkdir()
    (project.folder / "dvc_plots/index.html").touch()
    assert project.git("status", "--porcelain") == ""
