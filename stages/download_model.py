"""Stage download_model: the FP32 encoder, embedded, from a folder or from the Hub.

Writes config, tokenizer and safetensors under models/base/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.checkpoints import CHECKPOINT_FILES, copy_checkpoint, settle_checkpoint
from qa.errors import UserError, run
from qa.outputs import whole_folder
from qa.params import read_params

EMBEDDED = "models/minilm-squad"


def main() -> None:
    params = read_params()
    model = params.model
    if model.name == "minilm-squad" and model.folder != EMBEDDED:
        raise UserError(
            "params.yaml: model.name: found 'minilm-squad' with a folder of your own;"
            " set model.name=folder to use it"
        )
    with whole_folder(Path("models/base")) as out:
        if model.name == "minilm-squad":
            from qa.adapter import merge_adapter

            merge_adapter(Path(model.folder), out)
        elif model.name == "folder":
            copy_checkpoint(Path(model.folder), out)
        else:
            from qa.hub import download_model

            download_model(model.name, model.revision, CHECKPOINT_FILES, out)
        settle_checkpoint(out, model.folder if model.name == "folder" else model.name)
    print(f"models/base: {model.name}")


if __name__ == "__main__":
    run(main)
