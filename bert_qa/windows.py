"""Question and context as token windows: what a BERT reads, and how its tokens map back to text.

The one place that tokenizes. Training, evaluation, CSV inference and the benchmark all use these
windows. Knows nothing of logits, of models or of what a span is worth.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import overload

import numpy as np
import tokenizers
from numpy.typing import NDArray

from bert_qa.errors import UserError, first_sentence
from bert_qa.squad import Example, Span, subset
from bert_qa.words import Units, find_units

TENSOR_CORE_MULTIPLE = 8
"""Padded lengths are multiples of 8 tokens, the tile that INT8 and BF16 kernels work in."""

ENCODINGS = 1024
"""Windows whose tokens are placed at once: enough for speed, and no more memory than that."""


@dataclass(frozen=True)
class Window:
    """One run of tokens of `[CLS] question [SEP] context [SEP]`, at most `max_length` long.

    Attributes:
        example: index of the example in the list that was tokenized.
        input_ids: token ids, without padding.
        token_type_ids: segment ids of the same length, or None for models without them.
        starts: int32, one a token: first character of the unit (`bert_qa.words`) that the token
            begins in, as an offset into the context; -1 for tokens outside the context or of white
            space.
        ends: int32, one a token: one past the last character of the unit that the token ends in;
            -1 likewise.
        reads: the first character of the context that the tokens cover, and one past the last.
    """

    example: int
    input_ids: Sequence[int] | NDArray[np.int32]
    token_type_ids: Sequence[int] | NDArray[np.uint8] | None
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    reads: tuple[int, int]

    def __len__(self) -> int:
        return len(self.input_ids)

    def locate(self, span: Span) -> tuple[int, int]:
        """First and last token of a span; (0, 0), the `[CLS]` token, when it is not all inside.

        That is the label of unanswerable questions in SQuAD 2.0 training, and of windows that do
        not hold the answer (Devlin et al., 2018, section 4.3).
        """
        start = span.start + len(span.text) - len(span.text.lstrip())
        end = span.start + len(span.text.rstrip())
        inside = np.flatnonzero(self.starts >= 0)
        if start < self.reads[0] or self.reads[1] < end:
            return 0, 0
        first = int(np.searchsorted(self.ends[inside], start, side="right"))
        last = int(np.searchsorted(self.starts[inside], end, side="left")) - 1
        return (int(inside[first]), int(inside[last])) if first <= last else (0, 0)


@dataclass(frozen=True)
class WindowSet(Sequence[Window]):
    """Windows in their order, and the token that pads them to one length.

    Attributes:
        windows: a list, or windows in a file that are read one by one: `bert_qa.window_files`.
        pad_token_id: what fills the end of a shorter one of a batch.
        known_lengths: of all windows in tokens, where they need not be read for it.
    """

    windows: Sequence[Window]
    pad_token_id: int
    known_lengths: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.windows)

    @overload
    def __getitem__(self, index: int) -> Window: ...

    @overload
    def __getitem__(self, index: slice) -> WindowSet: ...

    def __getitem__(self, index: int | slice) -> Window | WindowSet:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return self.windows[index]

    def take(self, indices: Sequence[int]) -> WindowSet:
        """Some of the windows, in the order of `indices`."""
        return WindowSet([self.windows[i] for i in indices], self.pad_token_id)

    def of_examples(self, examples: Collection[int]) -> WindowSet:
        """The windows of some examples, in their order here."""
        wanted = frozenset(examples)
        chosen = [window for window in self.windows if window.example in wanted]
        return WindowSet(chosen, self.pad_token_id)

    def draw(self, count: int, seed: int) -> WindowSet:
        """The windows of `count` examples, drawn without replacement, in their order here."""
        return self.of_examples(subset(range(self.examples), count, seed))

    @property
    def examples(self) -> int:
        """How many examples there are: each has a window, in their order."""
        return self.windows[-1].example + 1 if self.windows else 0

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each window."""
        if self.known_lengths is not None:
            return list(self.known_lengths)
        return [len(window) for window in self.windows]

    def pad(
        self, indices: Sequence[int] | None = None, length: int | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Pad windows to one length on the right, as a model takes them.

        Args:
            indices: which; all of them for None.
            length: in tokens; without it, what the longest needs.

        Returns:
            `input_ids`, `attention_mask` and, for models that have them, `token_type_ids`: int64,
            shape (windows, length).
        """
        chosen = [self.windows[i] for i in (range(len(self)) if indices is None else indices)]
        if length is None:
            length = padded_length(max(len(window) for window in chosen))
        shape = (len(chosen), length)
        batch = {
            "input_ids": np.full(shape, self.pad_token_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
        }
        if chosen[0].token_type_ids is not None:
            batch["token_type_ids"] = np.zeros(shape, dtype=np.int64)
        for row, window in enumerate(chosen):
            batch["input_ids"][row, : len(window)] = window.input_ids
            batch["attention_mask"][row, : len(window)] = 1
            if window.token_type_ids is not None:
                batch["token_type_ids"][row, : len(window)] = window.token_type_ids
        return batch


@dataclass(frozen=True)
class LabelledWindows:
    """Windows and, of each, the first and the last token of its answer.

    Attributes:
        starts, ends: int32, one a window; 0, the `[CLS]` token, where the answer is not inside.
    """

    windows: WindowSet
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


def label_windows(windows: WindowSet, examples: Sequence[Example]) -> LabelledWindows:
    """Find the answer of each window: its example's first."""
    answers = [examples[window.example].answers[:1] for window in windows]
    places = [
        window.locate(answer[0]) if answer else (0, 0)
        for window, answer in zip(windows, answers, strict=True)
    ]
    starts, ends = np.array(places, dtype=np.int32).reshape(-1, 2).T.copy()
    return LabelledWindows(windows, starts, ends)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the tokenizers library, and what its model takes.

    Attributes:
        model_max_length: tokens that the model reads at most.
        pad_token_id: what fills the end of a shorter sequence of a batch.
        has_token_types: whether the model tells question and context apart by segment ids.
    """

    backend: tokenizers.Tokenizer
    model_max_length: int
    pad_token_id: int
    has_token_types: bool


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a folder that this project wrote, a checkpoint or an exported one.

    Reads the two files that transformers saved there, without transformers, whose import takes
    longer than answering a question does.

    Raises:
        UserError: there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; run `dvc repro`, which makes it")
    try:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        pad_token = config["pad_token"]
        pad_token_id = backend.token_to_id(
            pad_token if isinstance(pad_token, str) else pad_token["content"]
        )
        model_max_length, names = config["model_max_length"], config["model_input_names"]
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise UserError(
            f"{folder}: no usable tokenizer ({first_sentence(error)}); make or fetch it again"
        ) from None
    backend.no_padding()  # some are saved with it; `pad` pads
    return Tokenizer(backend, model_max_length, pad_token_id, "token_type_ids" in names)


def make_windows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    doc_stride: int,
    max_question_length: int,
    align_to_words: bool = True,
) -> WindowSet:
    """Tokenize examples into windows, those of one example together and in reading order.

    Args:
        max_length: tokens a window at most, special tokens included.
        doc_stride: tokens that two neighbouring windows of one context share.
        max_question_length: tokens of a question at most; a longer one loses its end.
        align_to_words: whether answers are whole words, see `bert_qa.words`; without, they begin
            and end at any token.

    Returns:
        At least one window an example.

    Raises:
        UserError: `max_length`, padded, is more than the model reads, or leaves no room for the
            context.
    """
    reads = tokenizer.model_max_length
    if padded_length(max_length) > reads:
        raise UserError(
            f"params.yaml: windows.max_length: found {max_length}; this model reads at most {reads}"
            f" tokens, padded to a multiple of {TENSOR_CORE_MULTIPLE}"
        )
    room = max_length - max_question_length - tokenizer.backend.num_special_tokens_to_add(True)
    if room <= doc_stride:
        raise UserError(
            f"params.yaml: windows.max_length {max_length} leaves {room} tokens for the context"
            f" beside a question of {max_question_length}; it must be more than windows.doc_stride"
            f" ({doc_stride})"
        )
    if not examples:
        return WindowSet([], tokenizer.pad_token_id)
    questions = _cut_questions(
        [example.question for example in examples], tokenizer, max_question_length
    )
    tokenizer.backend.enable_truncation(max_length, stride=doc_stride, strategy="only_second")
    encoded = tokenizer.backend.encode_batch(
        [(question, example.context) for question, example in zip(questions, examples, strict=True)]
    )
    parts = [(i, part) for i, first in enumerate(encoded) for part in (first, *first.overflowing)]
    windows = []
    units: dict[str, Units] = {}
    for some in (parts[at : at + ENCODINGS] for at in range(0, len(parts), ENCODINGS)):
        contexts = {examples[i].context for i, _ in some}
        units = {  # of many questions on one context, or many windows of it, found once
            text: units[text] if text in units else find_units(text, words=align_to_words)
            for text in contexts
        }
        starts, ends, read = _boundaries(some, {i: units[examples[i].context] for i, _ in some})
        windows += [
            Window(
                example=i,
                input_ids=part.ids,
                token_type_ids=part.type_ids if tokenizer.has_token_types else None,
                starts=first,
                ends=end,
                reads=part_reads,
            )
            for (i, part), first, end, part_reads in zip(some, starts, ends, read, strict=True)
        ]
    return WindowSet(windows, tokenizer.pad_token_id)


def _boundaries(
    parts: Sequence[tuple[int, tokenizers.Encoding]], units: Mapping[int, Units]
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]], list[tuple[int, int]]]:
    """`Window.starts`, `Window.ends` and `Window.reads` of each encoding.

    Of all at once: for a window alone, calling numpy takes longer than what it computes.

    Args:
        parts: encodings, each with the index of its example.
        units: by index, what `find_units` finds in the context.
    """
    lengths = [len(part) for _, part in parts]
    total = sum(lengths)
    sequence = np.fromiter(
        (-1 if i is None else i for _, part in parts for i in part.sequence_ids), np.int32, total
    )
    offsets = np.fromiter(
        chain.from_iterable(chain.from_iterable(part.offsets for _, part in parts)),
        np.int64,
        2 * total,
    ).reshape(-1, 2)
    # Put the contexts one behind the other, so that units of all are in one order.
    examples = list(dict.fromkeys(i for i, _ in parts))
    room = [int(units[i].ends[-1]) if len(units[i].ends) else 0 for i in examples]
    before = dict(zip(examples, accumulate(room[:-1], initial=0), strict=True))
    unit_starts = np.concatenate([units[i].starts + before[i] for i in examples])
    unit_ends = np.concatenate([units[i].ends + before[i] for i in examples])
    separates = np.concatenate([units[i].separates for i in examples])
    starts, ends = np.full((2, total), -1, dtype=np.int32)
    context = np.flatnonzero(sequence == 1)
    shift = np.repeat([before[i] for i, _ in parts], lengths)[context]
    window = np.repeat(np.arange(len(parts)), lengths)[context]
    low, high = offsets[context].T + shift
    first = np.searchsorted(unit_ends, low, side="right")
    last = np.searchsorted(unit_starts, high, side="left") - 1
    # Tokens of white space alone are in no unit, and no answer begins or ends with them.
    kept = np.flatnonzero(first <= last)
    context, shift, window, low, high, first, last = (
        values[kept] for values in (context, shift, window, low, high, first, last)
    )
    # Of a token that holds more than a comma or a bracket, those are no part of an answer's ends.
    at = np.arange(len(separates))
    after = np.minimum.accumulate(np.where(separates, len(at), at)[::-1])[::-1][first]
    to = np.maximum.accumulate(np.where(separates, -1, at))[last]
    first, last = np.where(after <= last, (after, to), (first, last))
    starts_of, ends_of = unit_starts[first], unit_ends[last]
    reads = np.zeros((len(parts), 2), dtype=np.int64)
    if len(context):
        # What a window cuts in two is whole in neither: each has the part that it reads.
        edges = np.flatnonzero(np.diff(window, prepend=-1, append=-1))
        number = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        left, right = edges[:-1], edges[1:] - 1
        least = np.maximum(low, starts_of)[left][number]
        most = np.minimum(high, ends_of)[right][number]
        reads[window[left], 0] = low[left] - shift[left]
        reads[window[left], 1] = high[right] - shift[right]
        starts[context] = np.maximum(starts_of, least) - shift
        ends[context] = np.minimum(ends_of, most) - shift
    each = [slice(*pair) for pair in pairwise(accumulate(lengths, initial=0))]
    pairs = [(start, end) for start, end in reads.tolist()]
    return [starts[part] for part in each], [ends[part] for part in each], pairs


def padded_length(length: int) -> int:
    """`length` rounded up to the multiple that kernels like best."""
    return -(-length // TENSOR_CORE_MULTIPLE) * TENSOR_CORE_MULTIPLE


def _cut_questions(
    questions: Sequence[str], tokenizer: Tokenizer, max_question_length: int
) -> list[str]:
    """Questions without leading space (a SQuAD habit), cut after `max_question_length` tokens."""
    stripped = [question.strip() for question in questions]
    tokenizer.backend.no_truncation()
    return [
        question
        if len(encoding) <= max_question_length
        else question[: encoding.offsets[max_question_length - 1][1]]
        for question, encoding in zip(
            stripped,
            tokenizer.backend.encode_batch(stripped, add_special_tokens=False),
            strict=True,
        )
    ]
