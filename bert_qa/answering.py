"""A model's folder and parameters to answers: one question, or a CSV.

Puts together what the modules below it do, in the order that loses no work. Knows nothing of how
the folder came about.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnxruntime

from bert_qa.cpu import cores, machine
from bert_qa.engine import Engine
from bert_qa.errors import UserError
from bert_qa.sessions import MODEL_CACHE, Sessions, onnx_forward
from bert_qa.spans import Answer
from bert_qa.squad import Example
from bert_qa.windows import load_tokenizer

if TYPE_CHECKING:
    from bert_qa.params import Decoding, Infer, Precision, Provider, Windows


def open_engine(
    folder: Path,
    windows: Windows,
    decoding: Decoding,
    *,
    provider: Provider,
    precision: Precision,
    cache: Path | None = MODEL_CACHE,
    sessions: Literal["auto"] | int | None = None,
) -> Engine:
    """Open an exported model as an engine.

    Args:
        provider, precision, cache: as in `bert_qa.sessions.onnx_forward`.
        sessions: processes that run the model, as in `bert_qa.sessions.Sessions`; close the engine
            to end them. None for this process, which starts faster.

    Raises:
        UserError: the folder holds no such model, or it cannot run here.
    """
    tokenizer = load_tokenizer(folder)
    if sessions is None:
        forward = onnx_forward(folder, provider, precision, cache)
        return Engine(forward, tokenizer, windows, decoding, 1, cores())
    running = Sessions(folder, provider, precision, cache, sessions)
    each = running.processors_each
    return Engine(running.forward, tokenizer, windows, decoding, running.count, each, running.close)


def answer_one(
    folder: Path,
    windows: Windows,
    decoding: Decoding,
    infer: Infer,
    *,
    question: str,
    context: str,
    cache: Path = MODEL_CACHE,
) -> Answer:
    """Answer one question.

    Args:
        folder: an exported model.
        cache: where OpenVINO keeps the compiled model.

    Raises:
        UserError: the model cannot be loaded, or a text is not one.
    """
    for name, text in (("--question", question), ("--context", context)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{name}: not UTF-8 at character {error.start}; set the terminal to UTF-8"
            ) from None
        if len(text) > infer.max_context_characters:
            raise UserError(
                f"{name}: {len(text)} characters, more than infer.max_context_characters"
                f" ({infer.max_context_characters})"
            )
    provider, precision = infer.provider, infer.precision
    engine = open_engine(
        folder, windows, decoding, provider=provider, precision=precision, cache=cache
    )
    return engine.answer([Example("0", question, context)])[0]


def answer_csv(
    folder: Path, windows: Windows, decoding: Decoding, infer: Infer, cache: Path = MODEL_CACHE
) -> None:
    """Answer `infer.input` into `infer.output`; a run that was killed goes on where it stopped.

    Prints how many rows the output has, and what a reader should know of them.

    Args:
        folder: an exported model.
        cache: where OpenVINO keeps the compiled model.

    Raises:
        UserError: the table, the output or the model is refused.
    """
    from bert_qa.csv_table import answer_table, check_table
    from bert_qa.files import check_output, fingerprint, resumable_file
    from bert_qa.journal import Journal
    from bert_qa.progress import progress
    from bert_qa.unfinished import code_of

    source, output = Path(infer.input), Path(infer.output)
    check_output(output, "infer.output")
    load_tokenizer(folder)  # what is wrong with it is told before the table is read
    with resumable_file(output) as unfinished:
        table = check_table(
            source,
            on_error=infer.on_error,
            max_context_characters=infer.max_context_characters,
        )
        made_by = fingerprint([windows, decoding, infer], [*code_of("infer"), folder, source])
        with ExitStack() as stack:
            engine = stack.enter_context(
                open_engine(
                    folder,
                    windows,
                    decoding,
                    provider=infer.provider,
                    precision=infer.precision,
                    cache=cache,
                    sessions=infer.sessions,
                )
            )
            # Another processor, or another share of it, computes other last digits.
            identity = f"{made_by} {onnxruntime.__version__} {machine()} {engine.processors_each}"
            journal = stack.enter_context(Journal(unfinished, identity))
            if journal.outdated:
                print(
                    f"{output}: what an unfinished run left is of another input, model, parameters,"
                    " machine or version, or damaged: afresh"
                )
            done = journal.progress.rows
            if done:
                print(f"{output}: going on after row {done} of {table.rows}")
            bar = stack.enter_context(progress(str(source), table.rows, "row", done))
            engine = replace(engine, forward=journal.remember(engine.forward))
            written = answer_table(
                table,
                unfinished,
                journal,
                partial(engine.answer_chunks, progress=bar.update),
                escape_formulas=infer.escape_formulas,
            )
    print(f"{output}: {written.rows} rows")
    if table.bad:
        print(f"{output}: {table.bad} of them could not be answered, see the column Error")
    if written.formulas and not infer.escape_formulas:
        print(
            f"{output}: {written.formulas} cells begin as formulas do; turn escape_formulas on"
            " before you open it in a spreadsheet"
        )
