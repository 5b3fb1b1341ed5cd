"""The teacher's logits: the FP32 model's start and end logits of each training window.

Computed in parts, so that a killed run goes on where it was, and kept in a file that training maps
into memory. Knows nothing of the loss that they go into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bert_qa.arrow import Columns, Records, Rows, lists, write_columns
from bert_qa.files import whole_file
from bert_qa.launching import first_here, place_here, processes_here
from bert_qa.logits import Forward, Logits, run_windows
from bert_qa.progress import progress
from bert_qa.windows import WindowSet

PART = 1024
"""Windows of a part: enough for batches of like length, and minutes of BERT-large on two cores."""


def write_teacher(
    path: Path,
    forward: Forward,
    windows: WindowSet,
    parts: Path,
    progress: Callable[[int], object] | None = None,
    *,
    processes: int = 1,
) -> None:
    """Compute the logits of all windows into a file.

    Args:
        forward: the teacher's forward pass.
        parts: a folder for what is done so far, and what an earlier run left there: it must be
            named after teacher and windows.
        progress: called after every batch with its number of windows.
        processes: among how many `write_share` divided the work.
    """
    size = _part_size(len(windows), processes)

    def chunks() -> Iterator[Columns]:
        for first in range(0, len(windows), size):
            some = windows[first : first + size]
            both = _part(parts / f"{first:09}.npz", forward, some, progress)
            stops = np.cumsum(some.lengths)[:-1]
            yield {
                side: lists(np.split(values, stops), pa.float32())
                for side, values in zip(("start", "end"), both, strict=True)
            }

    write_columns(path, chunks())


def write_share(folder: Path, windows_file: Path, parts: Path) -> None:
    """Compute this process's share of the parts of its machine, for `write_teacher` to find.

    Args:
        folder: the teacher's checkpoint.
        windows_file: as `bert_qa.window_files` writes it.
        parts: as in `write_teacher`.
    """
    from bert_qa.checkpoints import best_device, load_model, torch_forward
    from bert_qa.window_files import read_windows

    forward = torch_forward(load_model(folder, dropout=False)[0].to(best_device()))
    windows = read_windows(windows_file).windows
    size = _part_size(len(windows), processes_here())
    firsts = range(0, len(windows), size)[place_here() :: processes_here()]
    with progress("teacher", len(firsts), "part", shown=first_here()) as bar:
        for first in firsts:
            _part(parts / f"{first:09}.npz", forward, windows[first : first + size], None)
            bar.update(1)


def _part_size(windows: int, processes: int) -> int:
    """Windows of a part: fewer than `PART` where some processes would have none."""
    return max(1, min(PART, -(-windows // processes)))


def write_no_teacher(path: Path) -> None:
    """Write the file of a teacher that is not asked: without rows."""
    write_columns(path, [])


def _part(
    file: Path,
    forward: Forward,
    windows: WindowSet,
    progress: Callable[[int], object] | None,
) -> NDArray[np.float32]:
    """Start and end logits of windows, one behind the other, (2, tokens)."""
    try:
        with np.load(file) as archive:  # a zip archive, which has a checksum
            both: NDArray[np.float32] = archive["both"]
        if both.shape != (2, sum(windows.lengths)):
            raise ValueError
    except Exception:  # whatever damage makes of it: it is computed again
        computed = run_windows(forward, windows, progress)
        both = np.concatenate([np.stack([logits.start, logits.end]) for logits in computed], axis=1)
        with whole_file(file) as partial, partial.open("wb") as out:
            np.savez(out, both=both)
    else:
        if progress is not None:
            progress(len(windows))
    return both


def read_teacher(path: Path) -> Sequence[Logits]:
    """Open a file that `write_teacher` wrote.

    Raises:
        UserError: it is not there, or is not whole.
    """
    rows = Rows(path, "run `dvc repro teach`")

    def logits(row: int) -> Logits:
        return Logits(rows.list_at("start", row), rows.list_at("end", row))

    return Records(rows, logits)
