"""Stage check_params: params.yaml against the model and the processor, before the long stages.

DVC removes a stage's outputs before it runs the stage: what is wrong is found here, before any is
lost. Writes models/windows.json, the windows that the model was seen to read.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.checkpoints import load_model
from qa.checks import check_machine, check_model
from qa.errors import UserError, run
from qa.features import load_tokenizer
from qa.outputs import check_output, write_json
from qa.params import read_params

BASE = Path("models/base")


def main() -> None:
    params = read_params()
    check_machine(params)
    check_output(Path(params.infer.output), "infer.output")
    if not Path(params.infer.input).is_file():
        raise UserError(f"params.yaml: infer.input: {params.infer.input} is no file; name a CSV")
    tokenizer = load_tokenizer(BASE)
    model, has_head = load_model(BASE, dropout=False)
    check_model(model, tokenizer, params, has_head=has_head)
    write_json(Path("models/windows.json"), params.windows.model_dump())
    print("params.yaml: checked")


if __name__ == "__main__":
    run(main)
