"""Tables in parts: planned once, each answered and written whole, put together at the end.

A part is some chunks of one input file. What is finished is noted beside the parts, so that a run
that was killed, on one machine or on many, answers only what is missing. Does not know who answers
them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from bert_qa.errors import UserError
from bert_qa.files import empty_folder, resumable_file, resumable_folder
from bert_qa.storage import (
    files_below,
    is_url,
    open_file,
    remove_files,
    write_file,
    writing,
)
from bert_qa.tables.table import Answered, Table, module_of

CHUNKS_A_PART = 16
"""At most: larger parts are fewer files, and more to answer again when a machine is taken away."""

PARTS = 64
"""At least, where a table has as many chunks: several for each session of a cluster."""

NOTES = "_unfinished"
PLAN = "plan.json"


@dataclass(frozen=True)
class Part:
    """Some chunks of one table.

    Attributes:
        number: its place among all parts.
        name: of its file, below the folder of parts.
        table: these chunks of it.
        begins: whether a file of the output begins with it.
        whole: whether its file is one of the output's format, or chunks as they are encoded.
    """

    number: int
    name: str
    table: Table
    begins: bool
    whole: bool


@dataclass(frozen=True)
class Written:
    """What is noted of a part that is written.

    Attributes:
        rows: how many it has.
        size: of its file, in bytes.
        formulas: cells that a spreadsheet would compute.
    """

    rows: int
    size: int
    formulas: int


def plan(tables: Mapping[str, Table], *, folder: bool) -> list[Part]:
    """Cut tables into parts; the cut depends on nothing but the tables.

    Args:
        tables: by the names that their files have below the output, in their order.
        folder: whether the output is a folder of parts, each a file, or one file of all of them.

    Raises:
        UserError: two files would have one name.
    """
    chunks = sum(len(table.chunks) for table in tables.values())
    most = max(1, min(CHUNKS_A_PART, chunks // PARTS))
    parts: list[Part] = []
    for name, table in tables.items():
        path = PurePosixPath(name)
        suffix = module_of(table.format, table.location).SUFFIX
        begins = range(0, len(table.chunks), most)
        for number, first in enumerate(begins):
            several = f"-{number:05}" if len(begins) > 1 else ""
            file = str(path.with_name(f"{path.stem}{several}{suffix}"))
            parts.append(
                Part(
                    len(parts),
                    file if folder else f"{len(parts):07}",
                    table.part(first, first + most),
                    begins=folder or not parts,
                    whole=folder,
                )
            )
    (often, times), *_ = Counter(part.name for part in parts).most_common(1)
    if times > 1:
        raise UserError(f"infer.input: two files would be answered into {often}; rename one")
    return parts


@dataclass(frozen=True)
class Place:
    """Where the parts of a run are written, with the notes of what is done.

    Attributes:
        folder: of the parts.
        run: stands for the input, the model and all else that the answers depend on.
    """

    folder: str
    run: str

    @property
    def notes(self) -> str:
        """The folder of this run's notes."""
        return f"{self.folder}/{NOTES}/{self.run}"


@contextmanager
def output_in_parts(output: str, *, folder: bool) -> Iterator[tuple[str, str]]:
    """Hold an output that is written in parts, until the block ends.

    In Azure Storage nothing is renamed: the parts of a folder are written where they stay.

    Args:
        output: a path, or a URL of Azure Storage.
        folder: whether it is a folder.

    Yields:
        The folder of the parts; and of a file, the place to write it.

    Raises:
        UserError: it cannot be written, or is a folder with other files.
    """
    if not is_url(output):
        path = Path(output)
        if folder:
            # DVC keeps what a run writes until the next run replaces it.
            with resumable_folder(path, replace="DVC_STAGE" in os.environ) as partial:
                yield str(partial), ""
            shutil.rmtree(path / NOTES)
        else:
            with resumable_file(path) as partial:
                yield str(partial.parent), str(partial)
    elif folder:
        found = files_below(output)
        if found and not any(name.startswith(f"{NOTES}/") for name in found):
            raise UserError(f"{output}: not an empty folder; name a new one, or remove it")
        yield output, ""
        _remove_notes(output)
    else:
        parent, _, name = output.rpartition("/")
        place = f"{parent}/.{name}.partial"
        yield place, output
        remove_files(place, [name for name in files_below(place) if not name.startswith(NOTES)])
        _remove_notes(place)


def _remove_notes(folder: str) -> None:
    """Remove the notes of a run in Azure Storage; the plan last, which says what the others are."""
    names = files_below(f"{folder}/{NOTES}")
    remove_files(f"{folder}/{NOTES}", [*(name for name in names if name != PLAN), PLAN])


class Notes:
    """What is done of a run, in a folder beside its parts.

    A part's note is a file whose name says it all: of a run of 100,000 parts that goes on, two
    listings tell what is left.

    Attributes:
        place: where the run's parts are written.
        done: by the numbers of parts.
        outdated: whether there was the work of another run, now removed.
    """

    def __init__(self, folder: str, identity: str, parts: Sequence[Part]) -> None:
        """Read the notes of a run, or begin them.

        Args:
            folder: of the parts.
            identity: names the input, the model and all else that the answers depend on.
            parts: as they are planned.
        """
        run = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        self.place = Place(folder, run)
        plan = f"{folder}/{NOTES}/{PLAN}"
        content = {"run": run, "parts": [part.name for part in parts]}
        there = PLAN in files_below(f"{folder}/{NOTES}")
        found = json.loads(_read(plan)) if there else None
        self.outdated = found is not None and found != content
        self.done: dict[int, Written] = {}
        if found != content:
            _remove_run(folder, found)
            write_file(plan, json.dumps(content).encode())
            return
        sizes = files_below(folder)
        wrong = []
        for name in files_below(self.place.notes):
            number, written = _of_note(name)
            if sizes.get(parts[number].name) == written.size:
                self.done[number] = written
            else:
                wrong.append(name)
        _remove(self.place.notes, wrong)


def _of_note(name: str) -> tuple[int, Written]:
    number, *values = map(int, name.split("."))
    return number, Written(*values)


def _remove_run(folder: str, plan: Any) -> None:
    """Remove what another run wrote: in Azure Storage its parts, here all of its own folder."""
    if not is_url(folder):
        empty_folder(Path(folder))
    elif plan is not None:
        remove_files(folder, plan["parts"])
        _remove_notes(folder)


def _remove(folder: str, names: Iterable[str]) -> None:
    if is_url(folder):
        remove_files(folder, names)
        return
    for name in names:
        (Path(folder) / name).unlink(missing_ok=True)


def read_note(place: Place, part: Part) -> Written | None:
    """What is noted of a part; None if it is not done."""
    names = files_below(place.notes, f"{part.number:07}.")
    return next((_of_note(name)[1] for name in names), None)


def write_part(place: Place, part: Part, chunks: Iterable[Answered]) -> Written:
    """Write a part, then note that it is done.

    Args:
        chunks: all of the part's.
    """
    module = module_of(part.table.format, part.table.location)
    content, rows, formulas = io.BytesIO(), 0, 0
    for chunk in chunks:
        content.write(chunk.encoded.content)
        rows, formulas = rows + chunk.rows, formulas + chunk.encoded.formulas
    if part.whole:
        content.seek(0)
        whole = io.BytesIO()
        module.join([content], whole)
        content = whole
    write_file(f"{place.folder}/{part.name}", content.getvalue())
    written = Written(rows, len(content.getvalue()), formulas)
    note = f"{part.number:07}.{written.rows}.{written.size}.{written.formulas}"
    write_file(f"{place.notes}/{note}", b"")
    return written


def join_parts(place: Place, parts: Sequence[Part], output: str) -> None:
    """Write one file of parts that are chunks."""
    module = module_of(parts[0].table.format, parts[0].table.location)

    def opened() -> Iterator[BinaryIO]:
        for part in parts:
            with open_file(f"{place.folder}/{part.name}") as file:
                yield file

    with writing(output) as whole:
        module.join(opened(), whole)


def _read(location: str) -> bytes:
    with open_file(location) as file:
        return file.read()
