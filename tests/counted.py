"""Stage infer in this folder, with every window noted in a file when its batch begins.

python tests/counted.py MODEL COUNTS [ROWS_A_CHUNK] [SECONDS_A_BATCH]

Tests kill it, and read in COUNTS how much of the work it had begun: a line for each batch, with the
number of its windows. Smaller chunks make a small table as good as a large one; slow batches give
the kill time to arrive.
"""

import os
import signal
import sys
import time
from pathlib import Path

from bert_qa.errors import run
from bert_qa.params import read_all_params


def main() -> None:
    from bert_qa.answering_tables import Asked, answer_tables
    from bert_qa.sessions import Sessions
    from bert_qa.tables import table

    model, counts, *further = sys.argv[1:]
    seconds = 0.0
    if further:
        table.CHUNK_ROWS, seconds = int(further[0]), float(further[1])
    begun = os.open(counts, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    forward = Sessions.forward

    def counted(self, batch):  # type: ignore[no-untyped-def]
        os.write(begun, b"%d\n" % len(batch["input_ids"]))
        time.sleep(seconds)
        return forward(self, batch)

    Sessions.forward = counted  # type: ignore[method-assign]
    params = read_all_params()
    answer_tables(Asked(Path(model), params.windows, params.decoding, params.infer))


if __name__ == "__main__":
    # Whoever starts the tests in the background has Ctrl-C ignored, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(main)
