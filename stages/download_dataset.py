"""Stage download_dataset: questions from the sample, from SQuAD JSON or from the Hub.

Writes train and validation under data/squad/ in one schema, whatever they came from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.errors import UserError, run
from qa.outputs import whole_folder
from qa.params import read_params
from qa.squad import read_squad_json, subset, write_examples

SAMPLE = {"train": "data/sample/train.json", "validation": "data/sample/validation.json"}


def main() -> None:
    params = read_params()
    dataset = params.dataset
    files = {"train": dataset.train_file, "validation": dataset.validation_file}
    if dataset.name == "sample" and files != SAMPLE:
        raise UserError(
            "params.yaml: dataset.name: found 'sample' with files of your own;"
            " set dataset.name=files to use them"
        )
    if dataset.name in ("sample", "files"):
        splits = {split: read_squad_json(Path(path)) for split, path in files.items()}
    else:
        from qa.hub import download_dataset  # the hub client, which local files do not need

        splits = download_dataset(dataset.name, dataset.revision)
    limits = {
        "train": dataset.max_train_examples,
        "validation": dataset.max_validation_examples,
    }
    with whole_folder(Path("data/squad")) as out:
        for split, limit in limits.items():
            examples = subset(splits[split], limit, dataset.seed)
            write_examples(out / f"{split}.jsonl", examples)
            print(f"{split}: {len(examples)} of {len(splits[split])} questions")


if __name__ == "__main__":
    run(main)
