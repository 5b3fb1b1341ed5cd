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
LOSSES = {
    "finetune": Path("metrics/finetune/plots/metrics/loss.tsv"),
    "train": Path("metrics/train/plots/metrics/loss.tsv"),
}


def main() -> None:
    with reading(TABLES, "run `dvc repro evaluate`"):
        tables = {
            file.stem: pd.read_csv(file, dtype={0: str}, keep_default_na=False)
            for file in TABLES.glob("*.csv")
        }
        losses = {stage: pd.read_csv(file, sep="\t") for stage, file in LOSSES.items()}
    with whole_folder(PICTURES) as out:
        draw_all(tables, losses, out)
    print(f"{PICTURES}: {len(list(PICTURES.iterdir()))} pictures")


if __name__ == "__main__":
    run(main)
