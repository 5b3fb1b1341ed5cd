"""`Reader`: a released model as a Python object, with the interface of a pipeline.

transformers removed its `question-answering` pipeline in 5.3; this one has its arguments and its
results, and answers in batches. Knows nothing of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # imported below, where they are used: `import bert_qa` stays fast
    from bert_qa.params import Decoding, Precision, Provider, Windows
    from bert_qa.spans import Answer

Section = TypeVar("Section", "Windows", "Decoding")

Result = dict[str, Any]
"""`answer`, `score`, `start` and `end`: text, probability, and characters of the context."""


class Reader:
    """Answers questions from contexts with an exported INT8 model.

    >>> reader = Reader("models/bert-qa-int8")
    >>> reader(question="Where do I live?", context="I live in London.")["answer"]
    'London'

    Args:
        folder: a released model: `model.onnx`, the tokenizer and question_answering.json.
        provider: an ONNX Runtime execution provider.
        precision: of the operators that stay in floating point; `bf16` is faster where the
            processor has it.
        cache: where OpenVINO keeps the compiled model for the next start; None for nowhere.

    Raises:
        UserError: the folder holds no such model, or it cannot run here.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        provider: Provider = "OpenVINOExecutionProvider",
        precision: Precision = "fp32",
        cache: str | Path | None = None,
    ) -> None:
        from bert_qa.answering import open_engine
        from bert_qa.released_parameters import read_released

        released = read_released(Path(folder))
        self._engine = open_engine(
            Path(folder),
            released.windows,
            released.decoding,
            provider=provider,
            precision=precision,
            cache=None if cache is None else Path(cache),
        )

    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
    ) -> Any:
        """Answer one question, or many.

        Arguments that are None have the values that the model was evaluated with, in
        question_answering.json; but `doc_stride` shrinks with a smaller `max_seq_len`.

        Args:
            question: one, or a sequence.
            context: the text to answer from, or one for each question.
            top_k: maximum number of answers per question, the best first.
            doc_stride: tokens that two windows of one context share.
            max_answer_len: maximum tokens of an answer.
            max_seq_len: maximum tokens of a window, question included.
            max_question_len: maximum tokens of a question.
            handle_impossible_answer: whether "" may be the answer.
            align_to_words: whether answers are whole words.

        Returns:
            With `top_k=1` a dict per question, else a list of dicts; a list of these for a sequence
            of questions. Keys are `answer`, `score`, `start` and `end`.

        Raises:
            ValueError: a text is empty or no text, the sequences differ in length, or a number is
                out of range.
        """
        from dataclasses import replace

        from bert_qa.errors import UserError
        from bert_qa.spans import n_best_answers
        from bert_qa.squad import Example

        if not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k: found {top_k!r}; give an integer, 1 or more")
        pairs = _pairs(question, context)
        engine = replace(
            self._engine,
            windows=_changed(
                self._engine.windows,
                doc_stride=("doc_stride", self._stride(doc_stride, max_seq_len, max_question_len)),
                max_length=("max_seq_len", max_seq_len),
                max_question_length=("max_question_len", max_question_len),
                align_to_words=("align_to_words", align_to_words),
            ),
            decoding=_changed(
                self._engine.decoding,
                max_answer_length=("max_answer_len", max_answer_len),
                version_2_with_negative=("handle_impossible_answer", handle_impossible_answer),
            ),
        )
        try:
            reading = engine.read([Example(str(i), *pair) for i, pair in enumerate(pairs)])
        except UserError as error:  # the lengths do not go together, or not with the model
            raise ValueError(_as_arguments(str(error))) from None
        answers = n_best_answers(
            [example.context for example in reading.examples],
            reading.windows,
            reading.logits,
            n_best=top_k,
            **engine.decoding.model_dump(),
        )
        results = [[_result(answer) for answer in some] for some in answers]
        if isinstance(question, str):
            return results[0][0] if top_k == 1 else results[0]
        return [some[0] for some in results] if top_k == 1 else results

    def _stride(
        self, given: int | None, max_length: int | None, question: int | None
    ) -> int | None:
        """The stride that is asked for: half of the room for the context, if that is less."""
        windows = self._engine.windows
        if given is not None or not isinstance(max_length, int):
            return given
        left = max_length - (question if isinstance(question, int) else windows.max_question_length)
        return max(0, min(windows.doc_stride, left // 2))


def _pairs(question: str | Sequence[str], context: str | Sequence[str]) -> list[tuple[str, str]]:
    questions = [question] if isinstance(question, str) else list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if isinstance(question, str) and not isinstance(context, str):
        raise ValueError("context: found a sequence for one question; give one text")
    if len(questions) != len(contexts):
        raise ValueError(
            f"context: found {len(contexts)} for {len(questions)} questions; give one for each, or"
            " one text for all"
        )
    for name, texts in (("question", questions), ("context", contexts)):
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"{name} {i}: found {text!r}; give a text")
            if not text.strip():
                raise ValueError(f"{name} {i}: empty; give a text")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name} {i}: no Unicode text at character {error.start}; decode it as UTF-8"
                ) from None
    return list(zip(questions, contexts, strict=True))


def _as_arguments(message: str) -> str:
    """An error that names keys of params.yaml, with the arguments in their place."""
    for key, argument in (("max_length", "max_seq_len"), ("doc_stride", "doc_stride")):
        message = message.replace(f"windows.{key}", argument)
    return message.removeprefix("params.yaml: ")


def _changed(section: Section, **changes: tuple[str, int | bool | None]) -> Section:
    """A section of parameters with other values, checked as those of params.yaml are.

    Args:
        changes: by key, the argument that stands for it and its value; None leaves the key.
    """
    from pydantic import ValidationError

    given = {key: value for key, (_, value) in changes.items() if value is not None}
    try:
        return type(section).model_validate(section.model_dump() | given)
    except ValidationError as error:
        (first, *_) = error.errors()
        argument, value = changes[str(first["loc"][0])]
        raise ValueError(f"{argument}: found {value!r}; {first['msg']}") from None


def _result(answer: Answer) -> Result:
    return {
        "score": answer.score,
        "start": answer.start,
        "end": answer.end,
        "answer": answer.text,
    }
