"""Write a BERT of a given size with random weights, to run the pipeline at its shape.

Its answers mean nothing; its speed and its memory are those of the shape, and its activations have
a trained model's outliers, which calibration is about. `make benchmark-large` uses it for
BERT-large.
"""

from __future__ import annotations

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
from pathlib import Path

import torch
from transformers import BertConfig, BertForQuestionAnswering

from bert_qa.adapter import ENCODER_PACKAGE, encoder_folder
from bert_qa.errors import run
from bert_qa.files import whole_folder
from bert_qa.intake import build_tokenizer

OUTLIERS = 6
"""Channels that stand out in every layer: trained BERTs have a handful (Kovaleva et al., 2021)."""


def add_outliers(model: BertForQuestionAnswering) -> None:
    """Draw the gains of normalization as training leaves them, with a few channels far out."""
    width = model.config.hidden_size
    channels = torch.randperm(width)[:OUTLIERS]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.copy_(torch.empty(width).log_normal_(-0.2, 0.2))
                module.bias.copy_(torch.empty(width).normal_(0, 0.1))
                module.weight[channels] *= 5
                module.bias[channels] += torch.empty(OUTLIERS).normal_(0, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden-size", type=int, default=1024)
    arguments = parser.parse_args()
    config = BertConfig(  # heads of 64 and a feed-forward four times as wide, as in every BERT
        num_hidden_layers=arguments.layers,
        hidden_size=arguments.hidden_size,
        num_attention_heads=arguments.hidden_size // 64,
        intermediate_size=4 * arguments.hidden_size,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model = BertForQuestionAnswering(config)
    add_outliers(model)
    with whole_folder(arguments.out) as out:
        build_tokenizer(encoder_folder(), out, ENCODER_PACKAGE)
        model.save_pretrained(out, max_shard_size="1TB")
    print(f"{arguments.out}: {arguments.layers} layers, {arguments.hidden_size} wide")


if __name__ == "__main__":
    run(main)
