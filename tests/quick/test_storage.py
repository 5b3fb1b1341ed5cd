"""Where tables lie: folders, patterns, and URLs of storage that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_qa.errors import UserError
from bert_qa.storage import _located, find_files, open_file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.csv", "in/a.csv", "in/.c.csv", "in/_d.csv", "in/deep/e.csv", "x[1].csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("in", {"a.csv": "in/a.csv", "b.csv": "in/b.csv"}),
        ("in/", {"a.csv": "in/a.csv", "b.csv": "in/b.csv"}),
        ("in/[b-z].csv", {"b.csv": "in/b.csv"}),
        ("in/**/*.csv", {"a.csv": "in/a.csv", "b.csv": "in/b.csv", "deep/e.csv": "in/deep/e.csv"}),
        ("i?/a*", {"in/a.csv": "in/a.csv"}),
        ("x[1].csv", None),
        ("in/a.csv", None),
        ("absent.csv", None),
    ],
)
def test_files_of_folders_and_patterns(
    folder: Path, location: str, found: dict[str, str] | None
) -> None:
    files = find_files(location)
    assert files == found
    assert files is None or [*files] == sorted(files)


@pytest.mark.fault("a folder without tables, a pattern that nothing fits")
def test_no_files_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    for location in ("empty", "in/*.parquet"):
        with pytest.raises(UserError, match=r"no files there; check infer\.input"):
            find_files(location)


@pytest.mark.fault("a URL of storage, {location}, that cannot be used")
@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("s3://bucket/x.csv", "found s3://; give a path, or abfs://container/path"),
        ("abfs://container/x.csv", "no storage account: set AZURE_STORAGE_CONNECTION_STRING or"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, location: str, says: str
) -> None:
    for name in ("CONNECTION_STRING", "ACCOUNT", "ACCOUNT_NAME"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    with pytest.raises(UserError, match=says), open_file(location):
        pass


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("abfs://tables/in", "abfs://tables/in/a.csv"),
        ("abfs://tables/in/", "abfs://tables/in/a.csv"),
        ("az://tables", "az://tables/in/a.csv"),
        (
            "abfss://tables@someaccount.dfs.core.windows.net/in/*.csv",
            "abfss://tables@someaccount.dfs.core.windows.net/in/a.csv",
        ),
    ],
)
def test_files_of_storage_are_named_as_their_folder_is(location: str, found: str) -> None:
    """The account stays in the URL."""
    assert _located(location, "tables/in/a.csv") == found
