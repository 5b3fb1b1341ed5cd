"""Tables answered on this machine: one file into another, or files into a folder of parts.

Puts together what the modules below it do, in the order that loses no work, and says at the end
what a reader of the output should know.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import onnxruntime

from bert_qa.answering import open_engine
from bert_qa.cpu import machine
from bert_qa.engine import Engine
from bert_qa.errors import UserError
from bert_qa.files import check_output, fingerprint, resumable_file
from bert_qa.journal import Journal, Progress
from bert_qa.progress import progress
from bert_qa.sessions import MODEL_CACHE
from bert_qa.storage import find_files, is_url, same_place
from bert_qa.tables.parts import (
    NOTES,
    Notes,
    Part,
    Place,
    Written,
    join_parts,
    output_in_parts,
    plan,
    write_part,
)
from bert_qa.tables.table import (
    SUFFIXES,
    Table,
    answer_table,
    answered_chunks,
    check_table,
    module_of,
    waiting_file,
)
from bert_qa.unfinished import code_of
from bert_qa.windows import load_tokenizer

if TYPE_CHECKING:
    from bert_qa.params import Decoding, Infer, Windows


@dataclass(frozen=True)
class Asked:
    """What a model is asked to answer a table with.

    Attributes:
        folder: an exported model.
        cache: where OpenVINO keeps the compiled model.
    """

    folder: Path
    windows: Windows
    decoding: Decoding
    infer: Infer
    cache: Path = MODEL_CACHE


class Machines(Protocol):
    """Who checks tables and answers parts: this machine, or many."""

    def check(self, files: Mapping[str, str], asked: Asked) -> dict[str, Table]:
        """Check tables, given by their names below the output and their locations."""

    def open(self, asked: Asked) -> str:
        """Load the model; say what the answers depend on beside it: how they are computed."""

    def answer(
        self, place: Place, parts: Sequence[Part], asked: Asked, tell: Callable[[int], object]
    ) -> Iterator[Written]:
        """Write parts, and tell how many rows were answered."""


def answer_tables(asked: Asked) -> None:
    """Answer `infer.input` into `infer.output`; a run that was killed goes on where it stopped.

    A file gives a file, in one step where both are here; a folder or a pattern gives a folder, of
    at least one part a file. Prints how many rows the output has, and what a reader should know.

    Raises:
        UserError: an input, the output or the model is refused.
    """
    infer = asked.infer
    in_parts = infer.output.endswith("/") or is_url(infer.output)
    if not in_parts and find_files(infer.input) is None:
        _answer_file(asked)
        return
    with _ThisMachine() as here:
        answer_in_parts(asked, here)


@contextmanager
def _engine(asked: Asked) -> Iterator[Engine]:
    infer = asked.infer
    with open_engine(
        asked.folder,
        asked.windows,
        asked.decoding,
        provider=infer.provider,
        precision=infer.precision,
        cache=asked.cache,
        sessions=infer.sessions,
    ) as engine:
        yield engine


def _answer_file(asked: Asked) -> None:
    infer = asked.infer
    source, output = infer.input, Path(infer.output)
    check_output(output, "infer.output")
    load_tokenizer(asked.folder)  # what is wrong with it is told before the table is read
    with resumable_file(output) as unfinished:
        table = check_one(source, asked)
        _check_suffix(table, infer.output)
        inputs = [asked.folder] if is_url(source) else [asked.folder, Path(source)]
        made_by = fingerprint([asked.windows, asked.decoding, infer], [*code_of("infer"), *inputs])
        with ExitStack() as stack:
            engine = stack.enter_context(_engine(asked))
            # Another processor, or another share of it, computes other last digits.
            identity = f"{made_by} {onnxruntime.__version__} {machine()} {engine.processors_each}"
            if is_url(source):
                identity += f" {table.state}"
            journal = stack.enter_context(Journal(waiting_file(table, unfinished), identity))
            if journal.outdated:
                _say_outdated(infer.output)
            done = journal.progress.rows
            if done:
                print(f"{output}: going on after row {done} of {table.rows}")
            bar = stack.enter_context(progress(source, table.rows, "row", done))
            engine = replace(engine, forward=journal.remember(engine.forward))
            written = answer_table(
                table,
                unfinished,
                journal,
                partial(engine.answer_chunks, progress=bar.update),
                escape_formulas=infer.escape_formulas,
            )
    _say_written(asked, written.rows, table.bad, written.formulas)


def answer_in_parts(asked: Asked, machines: Machines) -> None:
    """Answer files in parts; see `answer_tables`.

    Raises:
        UserError: an input or the output is refused.
    """
    infer = asked.infer
    found = find_files(infer.input)
    folder = found is not None or infer.output.endswith("/")
    files = {Path(infer.input).name: infer.input} if found is None else found
    output = infer.output.rstrip("/")
    if not is_url(output):
        check_output(Path(output), "infer.output")
    load_tokenizer(asked.folder)  # what is wrong with it is told before the tables are read
    files = {name: file for name, file in files.items() if not file.startswith(f"{output}/")}
    if any(same_place(file, output) for file in files.values()):
        raise UserError(f"infer.output: found {output}, which is the input; name another file")
    with output_in_parts(output, folder=folder) as (parts_folder, target):
        tables = machines.check(files, asked)
        if not folder:
            (table,) = tables.values()
            _check_suffix(table, output)
        parts = plan(tables, folder=folder)
        states = [(name, table.state) for name, table in tables.items()]
        # Neither where the tables lie nor how many sessions there are changes an answer.
        other = {"input": "-", "output": "-", "sessions": "auto"}
        made_by = fingerprint(
            [asked.windows, asked.decoding, infer.model_copy(update=other)],
            [*code_of("infer"), asked.folder],
        )
        computed = machines.open(asked)
        identity = f"{made_by} {onnxruntime.__version__} {computed} {states}"
        notes = Notes(parts_folder, identity, parts)
        if notes.outdated:
            _say_outdated(output)
        rows = sum(table.rows for table in tables.values())
        done = sum(written.rows for written in notes.done.values())
        if done:
            print(f"{output}: going on with {rows - done} of {rows} rows")
        left = [part for part in parts if part.number not in notes.done]
        with progress(infer.input, rows, "row", done) as bar:
            written = [*notes.done.values(), *machines.answer(notes.place, left, asked, bar.update)]
        if not folder:
            join_parts(notes.place, parts, target)
    if folder:
        print(f"{output}: {len(parts)} file{'s' if len(parts) > 1 else ''}")
    bad = sum(table.bad for table in tables.values())
    _say_written(asked, rows, bad, sum(each.formulas for each in written))


class _ThisMachine:
    """Answers parts with the sessions of this machine; see `Machines`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> _ThisMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, files: Mapping[str, str], asked: Asked) -> dict[str, Table]:
        return {name: check_one(location, asked) for name, location in files.items()}

    def open(self, asked: Asked) -> str:
        self._engine = self._stack.enter_context(_engine(asked))
        return f"{machine()} {self._engine.processors_each}"

    def answer(
        self, place: Place, parts: Sequence[Part], asked: Asked, tell: Callable[[int], object]
    ) -> Iterator[Written]:
        engine = self._engine
        with ExitStack() as stack:
            journal = None
            if not is_url(place.folder):
                journal = stack.enter_context(Journal(Path(place.folder) / NOTES / "parts", ""))
                engine = replace(engine, forward=journal.remember(engine.forward))
            chunks = answered_chunks(
                ((part.table, part.begins) for part in parts),
                partial(engine.answer_chunks, progress=tell),
                escape_formulas=asked.infer.escape_formulas,
            )
            for part in parts:
                count = len(part.table.chunks)
                yield write_part(place, part, itertools.islice(chunks, count))
                if journal is not None:
                    journal.advance(Progress(chunks=journal.progress.chunks + count))


def check_one(location: str, asked: Asked) -> Table:
    """Check one table as `infer` says.

    Raises:
        UserError: see `bert_qa.tables.table.check_table`, or what is asked for is of CSV alone.
    """
    infer = asked.infer
    table = check_table(
        location,
        on_error=infer.on_error,
        max_context_characters=infer.max_context_characters,
    )
    if infer.escape_formulas and table.format != "csv":
        name = module_of(table.format, location).NAME
        raise UserError(
            f"infer.escape_formulas: found true; no spreadsheet computes cells of {name}"
            f" ({location}): leave it off"
        )
    return table


def _check_suffix(table: Table, output: str) -> None:
    """Refuse an output whose name says that it has another format than the input."""
    module = module_of(table.format, table.location)
    suffix = Path(output).suffix.lower()
    if suffix in SUFFIXES and SUFFIXES[suffix] != table.format:
        raise UserError(
            f"infer.output: {output} would hold {module.NAME}, as the input does; name it"
            f" {Path(output).stem}{module.SUFFIX}"
        )


def _say_outdated(output: str) -> None:
    print(
        f"{output}: what an unfinished run left is of another input, model, parameters, machine or"
        " version, or damaged: afresh"
    )


def _say_written(asked: Asked, rows: int, bad: int, formulas: int) -> None:
    output = asked.infer.output
    print(f"{output}: {rows} rows")
    if bad:
        print(f"{output}: {bad} of them could not be answered, see the column Error")
    if formulas and not asked.infer.escape_formulas:
        print(
            f"{output}: {formulas} cells begin as formulas do; turn escape_formulas on"
            " before you open it in a spreadsheet"
        )
