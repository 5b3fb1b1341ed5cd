"""What a power cut, a bad disk or a person's editor does to files."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PIECES = [
    b'"',
    b"'",
    b",",
    b";",
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"=1+1",
    b"{",
    b"]",
    b": ",
    b"\\ud800",
    "\u00fc\u2028\U0001f600".encode(),
    b" " * 300,
]
"""What is put into files: characters with a meaning to some reader."""

VALUES: list[Any] = [
    None,
    True,
    False,
    "",
    " ",
    "false",
    "~",
    "\u00fc\ud800",
    0,
    -1,
    1,
    22.7,
    10**30,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    [1],
    {"a": 1},
    "x" * 3000,
]
"""What is put in the place of a value of JSON or YAML."""


def truncate(file: Path, draw: random.Random) -> None:
    """Cut a file at a random point. Hard links to it keep what they have."""
    content = file.read_bytes()
    _replace(file, content[: int(len(content) * draw.choice([0, draw.random(), 0.999]))])


def scramble(content: bytes, draw: random.Random) -> bytes:
    """Change text in one to three places, or give it another form altogether."""
    if draw.random() < 0.1:
        return draw.choice(FORMS)(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(content))
        to = min(len(content), at + draw.choice([1, 1, 10, 300]))
        piece = draw.choice(PIECES)
        content = draw.choice(
            [
                content[:at] + content[to:],
                content[:to] + content[at:],
                content[:at] + piece + content[at:],
                content[:at] + piece + content[to:],
                content[:at],
            ]
        )
    return content


FORMS: list[Callable[[bytes], bytes]] = [
    gzip.compress,
    lambda content: content.decode(errors="replace").encode("utf-16"),
    lambda content: content.decode(errors="replace").encode("latin-1", errors="replace"),
    lambda content: b"",
    lambda content: b"\n\n" + content,
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content.replace(b"\n", b"\r"),
    lambda content: json.dumps(content.decode(errors="replace")).encode(),
    lambda content: b"[" * 100_000,
]


def replace_values(value: Any, draw: random.Random, times: int) -> Any:
    """Replace, remove or double random members of lists and dictionaries, in place."""
    for _ in range(times):
        container, key = draw.choice(list(_places(value)))
        how = draw.random()
        if how < 0.7:
            container[key] = draw.choice(VALUES)
        elif how < 0.85:
            del container[key]
        elif isinstance(container, list):
            container.append(container[key])
        else:
            container[f"{key} "] = container[key]
    return value


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def shift_clock(files: Iterable[Path], draw: random.Random) -> None:
    """Give files a time of change in the past or the future, as a clock that was set does."""
    for file in files:
        moved = time.time() + draw.choice([-1, 1]) * draw.uniform(60, 10**8)
        os.utime(file, (moved, moved))


def _replace(file: Path, content: bytes) -> None:
    beside = file.with_name(f"{file.name}.damaged")
    beside.write_bytes(content)
    os.replace(beside, file)
