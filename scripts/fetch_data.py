"""Fetch the public questions that the results of docs/results.md are measured on: `make data`.

Each file is pinned by its commit and SHA-256 in experiments/data/sources.yaml and is kept once it
is here. Writes train, validation and rest (what `experiments/real.yaml` leaves of train) under
data/public/, as JSON Lines, and fails where they are not the questions that were measured.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bert_qa.errors import UserError, first_sentence, run
from bert_qa.files import hash_file, whole_file
from bert_qa.progress import progress
from bert_qa.squad import Example, examples_from_records, subset, write_examples

SOURCES = Path("experiments/data/sources.yaml")
OUT = Path("data/public")
ENDPOINT = "RAW_GITHUB_ENDPOINT"
"""The environment variable with a mirror of raw.githubusercontent.com."""

ATTEMPTS = 3
PAUSE = 2.0
"""Seconds before the second attempt; twice as many before the third."""

TIMEOUT = 30.0
"""Seconds without a byte, after which an attempt has failed."""

PASSING = {429, 500, 502, 503, 504}
"""What a server says that may say otherwise soon."""

LONGEST_ANSWER = 160
"""Characters; longer ones are whole sentences that an annotator took for an answer."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Source(BaseModel):
    """A public file.

    Attributes:
        split: of this project's, that its questions go to.
        repository: on GitHub.
        size: in bytes.
        articles: that are taken, from the first; all without.
        questions: a file that lists those to take; all without.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    split: str
    repository: str
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    path: str
    size: int
    sha256: Sha256
    articles: int | None = None
    questions: str | None = None


class Sources(BaseModel):
    """What experiments/data/sources.yaml has.

    Attributes:
        measured: by split, the SHA-256 of the JSON Lines that the results were measured on.
        train_examples, seed: as `experiments/real.yaml` draws what it trains on.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    files: Annotated[list[Source], Field(min_length=1)]
    measured: dict[str, Sha256]
    train_examples: int
    seed: int


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    sources = read_sources(SOURCES)
    splits: dict[str, list[Example]] = {}
    for source in sources.files:
        file = OUT / "raw" / Path(source.path).name
        fetch(source, file)
        listed = source.questions and SOURCES.parent / source.questions
        records = questions(file, source.articles, read_selection(listed) if listed else None)
        splits.setdefault(source.split, []).extend(examples_from_records(records, str(file)))
    taken = {
        example.id for example in subset(splits["train"], sources.train_examples, sources.seed)
    }
    splits["rest"] = [example for example in splits["train"] if example.id not in taken]
    others = []
    for split, examples in splits.items():
        file = OUT / f"{split}.jsonl"
        write_examples(file, examples)
        if hash_file(file) != sources.measured[split]:
            others.append(str(file))
        print(f"{file}: {len(examples)} questions")
    if others:
        # The sources are pinned, so that it is this script that reads them otherwise.
        raise UserError(
            f"{', '.join(others)}: not byte for byte the questions that docs/results.md is of;"
            " please report it. To go on with other figures, name them: make real"
            f" TRAIN={OUT}/train.jsonl VALIDATION={OUT}/validation.jsonl"
        )


def read_sources(file: Path) -> Sources:
    """Read the list of public files.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        return Sources.model_validate(YAML(typ="safe").load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"{file}: cannot be read: {first_sentence(error)}; restore it") from None
    except ValidationError as error:
        (first, *_) = error.errors()
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {key}: {first['msg']}; restore it") from None


def fetch(source: Source, file: Path) -> None:
    """Download a file, unless it is here.

    Raises:
        UserError: it cannot be had, or is another one than was pinned.
    """
    if file.is_file() and hash_file(file) == source.sha256:
        return
    host = os.environ.get(ENDPOINT) or "https://raw.githubusercontent.com"
    url = f"{host.rstrip('/')}/{source.repository}/{source.commit}/{source.path}"
    remedy = f"try again, set {ENDPOINT} to a mirror, or put the file at {file}"
    try:
        client = httpx.Client(timeout=TIMEOUT, follow_redirects=True)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise UserError(
            f"the environment's proxy or certificates cannot be used: {first_sentence(error)}; fix"
            " ALL_PROXY, HTTPS_PROXY or SSL_CERT_FILE"
        ) from None
    with client:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with whole_file(file) as partial:
                    found = _download(client, url, source, partial)
                    if found != source.sha256:
                        raise UserError(
                            f"{url}: its SHA-256 is {found}, not the pinned {source.sha256};"
                            f" nothing was kept: {remedy}"
                        )
                return
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise UserError(
                    f"{ENDPOINT}: found {host!r}: {first_sentence(error)}; give https://HOST"
                ) from None
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status not in PASSING or attempt == ATTEMPTS:
                    raise UserError(f"{url}: the server says {status}; {remedy}") from None
                why = f"the server says {status}"
            except httpx.HTTPError as error:
                why = first_sentence(error) or type(error).__name__
                if attempt == ATTEMPTS:
                    raise UserError(f"{url}: {why}; {remedy}") from None
            print(f"{url}: {why}; trying again", file=sys.stderr, flush=True)
            time.sleep(attempt * PAUSE)


def _download(client: httpx.Client, url: str, source: Source, out: Path) -> str:
    """Download into a file; return the SHA-256 of what came."""
    digest = hashlib.sha256()
    with client.stream("GET", url) as answer:
        answer.raise_for_status()
        name, kilobytes = Path(source.path).name, source.size // 1000
        with out.open("wb") as content, progress(name, kilobytes, "kB") as bar:
            for block in answer.iter_bytes():
                content.write(block)
                digest.update(block)
                bar.update(content.tell() // 1000 - bar.n)
    return digest.hexdigest()


def read_selection(file: Path) -> dict[str, list[str]]:
    """Read which questions of which contexts are taken, in their order.

    A line has the first 8 digits of the context's SHA-256, and of each question the last 4 of its
    id.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {first_sentence(error)}; restore it") from None
    selection: dict[str, list[str]] = {}
    for line in lines:
        context, *endings = line.split()
        selection.setdefault(context, []).extend(endings)
    return selection


def questions(
    file: Path, articles: int | None, selection: Mapping[str, Sequence[str]] | None
) -> Iterator[dict[str, Any]]:
    """Read SQuAD JSON as flat records, with the answers that most annotators gave first.

    An answer that several annotators gave is one answer; those of equal counts keep their order.
    """
    for article in json.loads(file.read_text(encoding="utf-8"))["data"][:articles]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            asked = {question["id"]: question for question in paragraph["qas"]}
            if selection is None:
                chosen = list(asked)
            else:
                key = hashlib.sha256(context.encode()).hexdigest()[:8]
                by_ending = {id_[-4:]: id_ for id_ in asked}
                endings = selection.get(key, ())
                chosen = [by_ending[ending] for ending in endings if ending in by_ending]
            for id_ in chosen:
                answers = list(_by_votes(asked[id_]["answers"]))
                yield {
                    "id": id_,
                    "question": asked[id_]["question"].strip(),
                    "context": context,
                    "answers": {
                        "text": [text for text, _ in answers],
                        "answer_start": [start for _, start in answers],
                    },
                }


def _by_votes(answers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    votes: Counter[tuple[str, int]] = Counter()
    for answer in answers:
        text, start = answer["text"], answer["answer_start"]
        stripped = text.strip()
        if stripped and len(stripped) <= LONGEST_ANSWER:
            votes[stripped, start + len(text) - len(text.lstrip())] += 1
    return (answer for answer, _ in votes.most_common())


if __name__ == "__main__":
    run(main)
