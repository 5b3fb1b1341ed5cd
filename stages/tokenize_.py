"""Stage tokenize: the questions of both splits as token windows, with the tokens of their answers.

Writes data/windows/, which training, calibration, the check of the export and evaluation read.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.errors import reading, run
from qa.features import load_tokenizer, make_windows
from qa.outputs import whole_folder
from qa.params import Windows
from qa.progress import progress
from qa.squad import read_examples
from qa.window_files import write_windows

BASE, DATA, OUT = Path("models/base"), Path("data/squad"), Path("data/windows")
WINDOWS = Path("models/windows.json")


def main() -> None:
    with reading(WINDOWS, "run `dvc repro probe`"):
        sizes = Windows.model_validate_json(WINDOWS.read_text(encoding="utf-8")).model_dump()
    tokenizer = load_tokenizer(BASE)
    with whole_folder(OUT) as out:
        for split in ("train", "validation"):
            examples = read_examples(DATA / f"{split}.jsonl")
            with progress(split, len(examples), "question") as bar:
                write_windows(
                    out / f"{split}.arrow",
                    examples,
                    lambda some: make_windows(some, tokenizer, **sizes),
                    tokenizer.pad_token_id,
                    bar.update,
                )


if __name__ == "__main__":
    run(main)
