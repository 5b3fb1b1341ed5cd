"""Stage tokenize: the questions of both splits as token windows, with the tokens of their answers.

Writes data/windows/, which training, calibration, the check of the export and evaluation read.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.errors import reading, run
from bert_qa.files import whole_folder
from bert_qa.params import Windows
from bert_qa.progress import progress
from bert_qa.squad import read_examples
from bert_qa.window_files import write_windows
from bert_qa.windows import load_tokenizer, make_windows

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
