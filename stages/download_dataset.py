"""Stage download_dataset: questions from the sample, from a file or from the Hub.

Writes train and validation under data/squad/ in one schema, whatever they came from, and what was
left out of them, if `dataset.on_bad_answer` is drop.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.errors import UserError, run
from bert_qa.files import whole_folder
from bert_qa.params import Dataset, Decoding, Sections, read_params
from bert_qa.squad import (
    Fault,
    check_answerable,
    read_questions,
    subset,
    write_examples,
    write_faults,
)


class Params(Sections):
    dataset: Dataset
    decoding: Decoding


def main() -> None:
    params = read_params(Params)
    dataset = params.dataset
    files = {"train": dataset.train_file, "validation": dataset.validation_file}
    limits = {"train": dataset.max_train_examples, "validation": dataset.max_validation_examples}
    faults: dict[str, list[Fault]] = {split: [] for split in files}
    dropped = faults if dataset.on_bad_answer == "drop" else None
    if dataset.name in ("sample", "files"):
        splits = {
            split: read_questions(Path(path), dropped[split] if dropped else None)
            for split, path in files.items()
        }
    else:
        from bert_qa.hub import download_dataset  # the hub client, which local files do not need

        splits = download_dataset(dataset.name, dataset.revision, dropped)
        files = {split: f"{dataset.name}, split {split}" for split in files}
    if splits["train"] == splits["validation"]:
        raise UserError(
            f"{files['validation']}: the same questions as in {files['train']}; a score on what was"
            " trained on says nothing: name another file"
        )
    with whole_folder(Path("data/squad")) as out:
        for split, limit in limits.items():
            examples = subset(splits[split], limit, dataset.seed)
            if not params.decoding.version_2_with_negative:
                check_answerable(examples, files[split])
            write_examples(out / f"{split}.jsonl", examples)
            print(f"{split}: {len(examples)} of {len(splits[split])} questions")
            if faults[split]:
                print(f"{split}: {len(faults[split])} left out: data/squad/dropped.jsonl")
        if any(faults.values()):
            write_faults(out / "dropped.jsonl", faults)


if __name__ == "__main__":
    run(main)
