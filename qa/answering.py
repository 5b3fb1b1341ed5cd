"""A model's folder and params.yaml to answers: one question, or a CSV.

Puts together what the modules below it do, in the order that loses no work. Knows nothing of how
the folder came about.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from qa.engine import Engine
from qa.errors import UserError
from qa.features import load_tokenizer
from qa.processor import machine
from qa.sessions import MODEL_CACHE, Sessions, onnx_forward
from qa.spans import Answer
from qa.squad import Example

if TYPE_CHECKING:
    from qa.params import Decoding, Infer, Windows


def answer_one(
    folder: Path, windows: Windows, decoding: Decoding, infer: Infer, *, question: str, context: str
) -> Answer:
    """Answer one question.

    Args:
        folder: an exported model.

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
    tokenizer = load_tokenizer(folder)
    forward = onnx_forward(folder, infer.provider, infer.precision, MODEL_CACHE)
    engine = Engine(forward, tokenizer, windows, decoding)
    return engine.answer([Example("0", question, context)])[0]


def answer_csv(folder: Path, windows: Windows, decoding: Decoding, infer: Infer) -> None:
    """Answer `infer.input` into `infer.output`; a run that was killed goes on where it stopped.

    Prints how many rows the output has, and what a reader should know of them.

    Args:
        folder: an exported model.

    Raises:
        UserError: the table, the output or the model is refused.
    """
    from qa.journal import Journal
    from qa.outputs import check_output, fingerprint, resumable_file
    from qa.progress import progress
    from qa.table import answer_table, check_table
    from qa.unfinished import code_of

    source, output = Path(infer.input), Path(infer.output)
    check_output(output, "infer.output")
    tokenizer = load_tokenizer(folder)
    with resumable_file(output) as unfinished:
        table = check_table(
            source,
            on_error=infer.on_error,
            max_context_characters=infer.max_context_characters,
        )
        made_by = fingerprint([windows, decoding, infer], [*code_of("infer"), folder, source])
        with ExitStack() as stack:
            sessions = stack.enter_context(
                Sessions(folder, infer.provider, infer.precision, MODEL_CACHE, infer.sessions)
            )
            # Another processor, or another share of it, computes other last digits.
            identity = f"{made_by} {onnxruntime.__version__} {machine()} {sessions.processors_each}"
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
            forward = journal.remember(sessions.forward)
            engine = Engine(forward, tokenizer, windows, decoding, sessions.count)
            written = answer_table(
                table,
                unfinished,
                journal,
                lambda chunks: engine.answer_chunks(chunks, bar.update),
                escape_formulas=infer.escape_formulas,
            )
    print(f"{output}: {written.rows} rows")
    if table.bad:
        print(f"{output}: {table.bad} of them could not be answered, see the column Error")
    if written.formulas and not infer.escape_formulas:
        print(
            f"{output}: {written.formulas} cells begin as formulas do; set"
            " infer.escape_formulas=true before you open it in a spreadsheet"
        )
