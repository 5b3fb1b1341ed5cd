"""A model's folder and parameters to an engine, and to the answer of one question.

Knows nothing of tables, and nothing of how the folder came about.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bert_qa.cpu import cores
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
