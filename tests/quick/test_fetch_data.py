"""The public data of the results: fetched from a server on loopback, by pinned hashes."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_qa.errors import UserError, run
from bert_qa.files import hash_file
from bert_qa.params import read_all_params
from bert_qa.squad import read_examples
from scripts import fetch_data
from scripts.experiment import read_experiment
from scripts.fetch_data import SOURCES, read_selection, read_sources
from tests.conftest import ROOT

COMMIT = "0" * 40


@contextmanager
def serving(files: dict[str, bytes], broken: list[str] | None = None) -> Iterator[str]:
    """Serve files by their paths; those in `broken` break off in the middle, once for each time."""
    to_break = list(broken or [])

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if body is not None and self.path in to_break:
                to_break.remove(self.path)
                body = body[: len(body) // 2]
            self.wfile.write(body or b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def squad(*paragraphs: tuple[str, list[tuple[str, str, list[str]]]]) -> bytes:
    """SQuAD JSON of one article a paragraph: a context, and ids, questions and answers' texts."""
    articles = [
        {
            "paragraphs": [
                {
                    "context": context,
                    "qas": [
                        {
                            "id": id_,
                            "question": question,
                            "answers": [
                                {"text": text, "answer_start": context.index(text)}
                                for text in texts
                            ],
                        }
                        for id_, question, texts in asked
                    ],
                }
            ]
        }
        for context, asked in paragraphs
    ]
    return json.dumps({"data": articles}).encode()


SHIFTS = squad(
    (
        "Ada met Bo in Kiel.",
        [
            ("q00a1", " Who met? ", ["Ada met Bo", "Ada ", "Ada"]),
            ("q00a2", "Where?", ["in Kiel", "Kiel"]),
            ("q00a3", "Whom?", ["Bo"]),
        ],
    ),
    ("Left out of it.", [("q00b1", "What?", ["it"])]),
)
XQUAD = squad(
    ("One is taken.", [("x1", "What is taken?", ["One"])]),
    ("Two is not.", [("x2", "What is not?", ["Two"])]),
)


def key(context: str) -> str:
    return hashlib.sha256(context.encode()).hexdigest()[:8]


@pytest.fixture
def files() -> dict[str, bytes]:
    return {f"/some/shifts/{COMMIT}/datasets/a.json": SHIFTS, f"/x/quad/{COMMIT}/en.json": XQUAD}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "list.txt").write_text(f"{key('Ada met Bo in Kiel.')} 00a2 00a1\n")
    file = tmp_path / "sources.yaml"
    first = entry("train", "some/shifts", "datasets/a.json", SHIFTS)
    second = entry("validation", "x/quad", "en.json", XQUAD)
    content = {
        "files": [first | {"questions": "list.txt"}, second | {"articles": 1}],
        "measured": dict.fromkeys(("train", "validation", "rest"), "0" * 64),
        "train_examples": 1,
        "seed": 42,
    }
    file.write_text(yaml.safe_dump(content))
    return file


def entry(split: str, repository: str, path: str, content: bytes) -> dict[str, Any]:
    return {
        "split": split,
        "repository": repository,
        "commit": COMMIT,
        "path": path,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def fetch(monkeypatch: pytest.MonkeyPatch, server: str, sources: Path, out: Path) -> int:
    monkeypatch.setenv(fetch_data.ENDPOINT, server)
    monkeypatch.setattr(fetch_data, "SOURCES", sources)
    monkeypatch.setattr(fetch_data, "OUT", out)
    monkeypatch.setattr(fetch_data, "PAUSE", 0)
    monkeypatch.setattr("sys.argv", ["fetch"])
    try:
        run(fetch_data.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_questions_are_those_that_are_listed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
    sources: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with serving(files, broken=[f"/x/quad/{COMMIT}/en.json"]) as server:  # tried again
        assert fetch(monkeypatch, server, sources, out) == 1  # these were never measured
    said = capsys.readouterr().err
    assert "trying again" in said
    assert "rest.jsonl: not byte for byte the questions that docs/results.md is of" in said
    train = read_examples(out / "train.jsonl")
    assert [example.id for example in train] == ["q00a2", "q00a1"]
    assert train[1].question == "Who met?"
    # Two of three said Ada, one of them with a space; the others keep their order.
    assert [(answer.text, answer.start) for answer in train[1].answers] == [
        ("Ada", 0),
        ("Ada met Bo", 0),
    ]
    assert [example.id for example in read_examples(out / "validation.jsonl")] == ["x1"]
    assert len(read_examples(out / "rest.jsonl")) == 1
    # What is here is not asked for again; with the right hashes all is well.
    content = yaml.safe_load(sources.read_text())
    content["measured"] = {
        split: hash_file(out / f"{split}.jsonl") for split in content["measured"]
    }
    sources.write_text(yaml.safe_dump(content))
    assert fetch(monkeypatch, "http://127.0.0.1:9", sources, out) == 0


def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
    sources: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    path = f"/x/quad/{COMMIT}/en.json"
    for wrong, says in (
        ({path: XQUAD + b" "}, "its SHA-256 is"),
        ({path: None}, "the server says 404"),
    ):
        serves = {k: v for k, v in (files | wrong).items() if v is not None}
        with serving(serves) as server:
            assert fetch(monkeypatch, server, sources, out) == 1
        error = capsys.readouterr().err
        assert says in error
        assert error.count("error: ") == 1
        assert "Traceback" not in error
        assert not (out / "raw/en.json").exists()
    for server, says in (
        ("http://127.0.0.1:9", "or put the file at"),
        ("not a server", "RAW_GITHUB_ENDPOINT: found 'not a server': "),
        ("http://a:b", "RAW_GITHUB_ENDPOINT: found 'http://a:b': "),
    ):
        assert fetch(monkeypatch, server, sources, out) == 1
        error = capsys.readouterr().err
        assert says in error.splitlines()[-1]
        assert "Traceback" not in error
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    assert fetch(monkeypatch, "http://127.0.0.1:9", sources, out) == 1
    assert "the environment's proxy or certificates cannot be used" in capsys.readouterr().err
    assert not list(out.glob("*.jsonl"))


@pytest.mark.parametrize(
    ("text", "says"),
    [("files: [", "cannot be read"), ("{}", "files: Field required"), (None, "cannot be read")],
)
def test_a_list_of_sources_that_is_none_is_named(
    tmp_path: Path, text: str | None, says: str
) -> None:
    file = tmp_path / "sources.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=says):
        read_sources(file)


def test_what_is_left_is_what_the_experiment_does_not_train_on() -> None:
    sources = read_sources(ROOT / SOURCES)
    for name in ("real", "rest"):
        overrides = read_experiment(ROOT / f"experiments/{name}.yaml").overrides
        assert overrides["dataset.max_train_examples"] == sources.train_examples
    assert read_all_params(ROOT / "params.yaml").dataset.seed == sources.seed


def test_the_real_questions_come_out_as_they_were_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_squad: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From files in the public ones' form: each annotator's answer, and more questions than are
    taken; the public ones' own bytes are not here."""
    chance = random.Random(0)
    train = json.loads((shared_squad / "train.json").read_text(encoding="utf-8"))["data"]
    files, listed = {}, []
    for subset in ("new_wiki", "amazon", "reddit"):
        articles = [article for article in train if article["title"].startswith(subset)]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    asked["answers"] = votes(asked["answers"], chance)
                    asked["question"] += " " * chance.randrange(2)
        more = {"context": f"More of {subset}.", "qas": [asked | {"id": "more" + subset}]}
        body = json.dumps({"data": [*articles, {"paragraphs": [more]}]}).encode()
        files[f"/shifts/{COMMIT}/{subset}.json"] = body
        listed.append(entry("train", "shifts", f"{subset}.json", body))
    english = json.loads((shared_squad / "dev.json").read_text(encoding="utf-8"))
    english["data"].append({"paragraphs": [more]})
    body = json.dumps(english).encode()
    files[f"/quad/{COMMIT}/en.json"] = body
    own = yaml.safe_load((ROOT / SOURCES).read_text(encoding="utf-8"))
    selection = ROOT / SOURCES.parent / "squadshifts.txt"
    own["files"] = [source | {"questions": str(selection)} for source in listed]
    own["files"].append(entry("validation", "quad", "en.json", body) | {"articles": 24})
    sources = tmp_path / "sources.yaml"
    sources.write_text(yaml.safe_dump(own))
    with serving(files) as server:
        assert fetch(monkeypatch, server, sources, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "rest.jsonl: 22275 questions" in out
    for split, measured in own["measured"].items():
        assert hash_file(tmp_path / f"out/{split}.jsonl") == measured
    assert sum(map(len, read_selection(selection).values())) == 26275


def votes(answers: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    """Annotators' answers, of which these are the distinct ones, the most frequent first."""
    given = [answer for rank, answer in enumerate(reversed(answers), 1) for _ in range(rank)]
    chance.shuffle(given)
    return [*given, {"text": "x" * 161, "answer_start": 0}]
