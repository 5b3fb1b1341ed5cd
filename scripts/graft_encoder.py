"""A RoBERTa or a DeBERTa of a BERT's weights, to see what INT8 loses in encoders other than BERT.

No registry of packages carries one that answers questions. Embeddings, layers and head are the
BERT's, so that it answers at once; DeBERTa's relative positions begin at random.
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

import torch
from transformers import (
    DebertaV2Config,
    DebertaV2ForQuestionAnswering,
    PreTrainedModel,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from bert_qa.adapter import merge_adapter
from bert_qa.checkpoints import load_model, save_checkpoint
from bert_qa.errors import UserError, run
from bert_qa.files import whole_folder
from bert_qa.intake import build_checkpoint

RENAMED = {
    "roberta": {"bert.": "roberta."},
    "deberta-v2": {
        "bert.": "deberta.",
        ".self.query.": ".self.query_proj.",
        ".self.key.": ".self.key_proj.",
        ".self.value.": ".self.value_proj.",
    },
}
"""By kind, parts of the names of BERT's tensors, and what the other architecture calls them."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a BERT's weights into another architecture.")
    parser.add_argument("kind", choices=RENAMED)
    parser.add_argument("source", type=Path, help="folder of a BERT that answers questions")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as name, whole_folder(arguments.out) as out:
        base = Path(name)
        if (arguments.source / "adapter_config.json").exists():  # the embedded model
            merge_adapter(arguments.source, base)
        else:
            build_checkpoint(arguments.source, base, str(arguments.source))
        bert, _ = load_model(base, dropout=True)
        if bert.config.model_type != "bert":
            raise UserError(
                f"{arguments.source}: a {bert.config.model_type}, and no BERT; give the"
                " folder of one: make graft MODEL=FOLDER"
            )
        torch.manual_seed(0)
        save_checkpoint(out, graft(bert, arguments.kind), base)


def graft(bert: PreTrainedModel, kind: str) -> PreTrainedModel:
    """A model of another kind with the embeddings, the layers and the head of a BERT."""
    shared = {
        key: getattr(bert.config, key)
        for key in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "hidden_act",
            "type_vocab_size",
            "layer_norm_eps",
            "pad_token_id",
        )
    }
    positions = bert.config.max_position_embeddings
    if kind == "roberta":
        # The first position of RoBERTa is the one behind that of padding.
        offset = bert.config.pad_token_id + 1
        config = RobertaConfig(**shared, max_position_embeddings=positions + offset)
        model: PreTrainedModel = RobertaForQuestionAnswering(config)
    else:
        offset = 0
        model = DebertaV2ForQuestionAnswering(
            DebertaV2Config(
                **shared,
                max_position_embeddings=positions,
                position_biased_input=True,
                relative_attention=True,
                pos_att_type=["c2p", "p2c"],
                position_buckets=64,
                share_att_key=True,
            )
        )
    own = model.state_dict()
    for berts, tensor in bert.state_dict().items():
        name = berts
        for theirs, ours in RENAMED[kind].items():
            name = name.replace(theirs, ours)
        if name.endswith("position_embeddings.weight"):
            own[name][offset : offset + positions] = tensor
        elif name in own:
            # DeBERTa divides by the square root of three times the width: of three products.
            scale = 3**0.5 if ".query_proj." in name else 1.0
            own[name].copy_(tensor * scale)
    return model.eval()


if __name__ == "__main__":
    run(main)
