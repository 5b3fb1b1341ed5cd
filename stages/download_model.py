"""Stage download_model: the FP32 encoder, embedded, from a folder or from the Hub.

Writes config, tokenizer and safetensors under models/base/.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.errors import run
from bert_qa.files import whole_folder
from bert_qa.intake import build_checkpoint, is_checkpoint_file
from bert_qa.params import Model, Sections, read_params


class Params(Sections):
    model: Model


def main() -> None:
    model = read_params(Params).model
    with whole_folder(Path("models/base")) as out:
        if model.name == "minilm-squad":
            from bert_qa.adapter import merge_adapter

            merge_adapter(Path(model.folder), out)
        elif model.name == "folder":
            build_checkpoint(Path(model.folder), out, model.folder)
        else:
            from bert_qa.hub import download_model

            there = download_model(model.name, model.revision, is_checkpoint_file)
            build_checkpoint(there, out, model.name)
    print(f"models/base: {model.name}")


if __name__ == "__main__":
    run(main)
