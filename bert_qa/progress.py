"""Progress of long work: one line that moves on a terminal, a line now and then in a log.

tqdm draws both. Knows nothing of the work.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SECONDS = 15.0
"""Between two lines in a log."""

LINE = (
    "{desc}: {n_fmt} of {total_fmt} {unit}s ({percentage:.0f}%), {elapsed} so far, {remaining} left"
)


class _Lines(tqdm):  # type: ignore[misc]
    """A bar that writes whole lines, for a log."""

    disable: bool

    @staticmethod
    def status_printer(file: Any) -> Any:
        """What prints a state of the bar, tqdm's own place for it."""

        def write(text: str) -> None:
            if text.strip():
                print(text, file=file, flush=True)

        return write

    def close(self) -> None:
        """Print the last state where some were printed before; tqdm adds an empty line."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)
            if self._time() - self.start_t >= SECONDS:
                self.display()


@contextmanager
def progress(
    description: str, total: int, unit: str, done: int = 0, *, shown: bool = True
) -> Iterator[Any]:
    """Show a bar while the block runs.

    Args:
        unit: what is counted.
        done: how many are done already.
        shown: whether there is a bar at all; not in all of many processes.

    Yields:
        The bar; `update(n)` moves it.
    """
    shape: dict[str, Any] = {"desc": description, "total": total, "initial": done, "unit": unit}
    shape["disable"] = not shown
    if sys.stderr.isatty():
        bar: Any = tqdm(**shape)
    else:
        often = {"mininterval": SECONDS, "maxinterval": SECONDS, "miniters": 1, "delay": SECONDS}
        bar = _Lines(**shape, **often, bar_format=LINE)
    with bar:
        yield bar
