"""Train the LoRA adapter of the embedded model, minilm-squad: `make adapter`.

A maintainer's recipe, run once: its result is kept in git under models/minilm-squad/. It needs
SQuAD JSON for training and for validation; the card beside the adapter says which were used.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from bert_qa.adapter import (
    ADAPTER_FILES,
    ENCODER_PACKAGE,
    add_adapter,
    encoder_folder,
    load_encoder,
    save_adapter,
)
from bert_qa.checkpoints import torch_forward
from bert_qa.engine import Engine
from bert_qa.errors import run
from bert_qa.intake import build_tokenizer
from bert_qa.metrics import exact_match_and_f1
from bert_qa.params import Decoding, Finetune, Windows
from bert_qa.squad import read_questions
from bert_qa.training import train
from bert_qa.unfinished import unfinished
from bert_qa.windows import label_windows, load_tokenizer, make_windows

RANK = 16
ALPHA = 32
WINDOWS = Windows(max_length=320, doc_stride=96, max_question_length=64)
DECODING = Decoding(
    max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
)
RECIPE = Finetune(
    processes=1,
    epochs=1.5,
    max_steps=None,
    learning_rate=1e-3,
    batch_size=16,
    warmup_ratio=0.05,
    weight_decay=0.0,
    precision="auto",
    save_steps=100,
    logging_steps=50,
    seed=42,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="SQuAD JSON to train on")
    parser.add_argument("--validation", type=Path, required=True, help="SQuAD JSON to score on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    arguments = parser.parse_args()

    with TemporaryDirectory() as folder:
        build_tokenizer(encoder_folder(), Path(folder), ENCODER_PACKAGE)
        tokenizer = load_tokenizer(Path(folder))
    model = load_encoder(RECIPE.seed)
    for module in model.modules():
        if isinstance(getattr(module, "p", None), float):
            module.p = 0.0  # no dropout: the adapter is too small to overfit
    model = add_adapter(model, RANK, ALPHA)
    model.print_trainable_parameters()

    examples = read_questions(arguments.train)
    windows = make_windows(examples, tokenizer, **WINDOWS.model_dump())
    print(f"{len(examples)} questions, {len(windows)} windows", flush=True)
    inputs = [Path(__file__), arguments.train]
    with unfinished("adapter", [RECIPE, WINDOWS], inputs, others=3) as checkpoints:
        train(
            model,
            label_windows(windows, examples),
            RECIPE,
            epochs=float(RECIPE.epochs),
            checkpoints=checkpoints,
            logs=checkpoints / "logs",
        )
        save_adapter(arguments.out, model)
    size = sum((arguments.out / name).stat().st_size for name in ADAPTER_FILES)
    print(f"{arguments.out}: {size / 1e6:.2f} MB")

    validation = read_questions(arguments.validation)
    engine = Engine(torch_forward(model.float()), tokenizer, WINDOWS, DECODING)
    print(exact_match_and_f1(validation, engine.answer(validation)))


if __name__ == "__main__":
    run(main)
