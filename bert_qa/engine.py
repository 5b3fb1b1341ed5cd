"""The engine: questions in, answers out, through one model's forward pass.

Tokenizes, runs and decodes; answers come back in the order of the questions. Knows nothing of what
runs the model, CSV, metrics or training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bert_qa.logits import Forward, Logits, PendingLogits
from bert_qa.spans import Answer, best_answers
from bert_qa.squad import Example
from bert_qa.windows import Tokenizer, WindowSet, make_windows

if TYPE_CHECKING:
    from bert_qa.params import Decoding, Windows


@dataclass(frozen=True)
class Reading:
    """The model's output for some examples: their windows and the logits of each."""

    examples: Sequence[Example]
    windows: WindowSet
    logits: Sequence[Logits]


@dataclass(frozen=True)
class Engine:
    """A tokenizer and a forward pass, with the parameters of windows and decoding.

    Attributes:
        concurrency: how many batches at a time the forward pass is given, each from a thread of
            its own.
        processors_each: how many processors compute a batch, on which its last digits depend.
        close: frees what the forward pass holds: processes, say. A `with` block calls it.
    """

    forward: Forward
    tokenizer: Tokenizer
    windows: Windows
    decoding: Decoding
    concurrency: int = 1
    processors_each: int = 1
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(
        self, examples: Sequence[Example], progress: Callable[[int], object] | None = None
    ) -> list[Answer]:
        """Answer examples, in their order; arguments and errors as in `read`."""
        return self.decode(self.read(examples, progress))

    def answer_chunks(
        self,
        chunks: Iterable[Sequence[Example]],
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[list[Answer]]:
        """Answer chunks of examples, one after the other; arguments and errors as in `read`.

        One chunk is tokenized while the one before it runs, and decoded while the one after it
        does.
        """
        return map(self.decode, self._read_chunks(chunks, progress))

    def read(
        self, examples: Sequence[Example], progress: Callable[[int], object] | None = None
    ) -> Reading:
        """Tokenize examples and run the model on them.

        Args:
            progress: called after every batch with the number of examples that it amounts to.

        Raises:
            UserError: the parameters leave no room for a context.
        """
        return next(self._read_chunks([examples], progress))

    def decode(self, reading: Reading) -> list[Answer]:
        """The answers to the examples of a reading, in their order."""
        return best_answers(
            [example.context for example in reading.examples],
            reading.windows,
            reading.logits,
            **self.decoding.model_dump(),
        )

    def _read_chunks(
        self, chunks: Iterable[Sequence[Example]], progress: Callable[[int], object] | None
    ) -> Iterator[Reading]:
        executor = ThreadPoolExecutor(self.concurrency)
        running: tuple[Sequence[Example], PendingLogits] | None = None
        try:
            for examples in chunks:
                windows = make_windows(examples, self.tokenizer, **self.windows.model_dump())
                pending = PendingLogits(executor, self.forward, windows)
                if running is not None:
                    yield _finish(*running, progress)
                running = examples, pending
            if running is not None:
                yield _finish(*running, progress)
        finally:
            executor.shutdown(cancel_futures=True)


def _finish(
    examples: Sequence[Example],
    pending: PendingLogits,
    progress: Callable[[int], object] | None,
) -> Reading:
    done, told = 0, 0

    def tell(windows: int) -> None:
        nonlocal done, told
        done += windows
        before, told = told, len(examples) * done // len(pending.windows)
        if progress is not None:
            progress(told - before)

    return Reading(examples, pending.windows, pending.result(tell))
