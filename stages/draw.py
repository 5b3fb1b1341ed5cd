"""Stage draw: the plots of the run as PNGs.

Writes metrics/pictures/ from what evaluate, finetune and train wrote for DVC's plots.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

import pandas as pd

from bert_qa.errors import reading, run
from bert_qa.files import whole_folder
from bert_qa.pictures import draw_all

TABLES, PICTURES = Path("metrics/plots"), Path("metrics/pictures")
DRAWN = [
    TABLES / f"{name}.csv"
    for name in (
        "scores",
        "f1_by_question",
        "f1_by_answer_length",
        "f1_by_context_length",
        "divergence",
        "confidence",
    )
]
LOSSES = {
    "finetune": Path("metrics/finetune/plots/metrics/loss.tsv"),
    "train": Path("metrics/train/plots/metrics/loss.tsv"),
}


def main() -> None:
    with whole_folder(PICTURES) as out, reading(TABLES.parent, "run `dvc repro -f evaluate`"):
        tables = {
            file.stem: pd.read_csv(file, dtype={0: str}, keep_default_na=False) for file in DRAWN
        }
        losses = {stage: pd.read_csv(file, sep="\t") for stage, file in LOSSES.items()}
        draw_all(tables, losses, out)
    print(f"{PICTURES}: {len(list(PICTURES.iterdir()))} pictures")


if __name__ == "__main__":
    run(main)
