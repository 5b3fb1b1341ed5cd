"""Stage check_params: all of params.yaml, before any other stage reads its part of it.

DVC removes a stage's outputs before it runs the stage: what is wrong is found here, before any is
lost. Writes models/checked.json, which the stages wait for, and models/teacher.json, whether the
FP32 model teaches: both the same for most changes, so that nothing runs again for them.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.errors import UserError, run
from bert_qa.files import check_output, write_json
from bert_qa.param_checks import check_machine
from bert_qa.params import read_all_params


def main() -> None:
    params = read_all_params()
    check_machine(params)
    check_output(Path(params.infer.output), "infer.output")
    if not Path(params.infer.input).is_file():
        raise UserError(f"params.yaml: infer.input: {params.infer.input} is no file; name a CSV")
    teaches = params.train.epochs > 0 and params.train.distillation_weight > 0
    write_json(Path("models/teacher.json"), {"teaches": teaches})
    write_json(Path("models/checked.json"), {"passed": True})
    print("params.yaml: checked")


if __name__ == "__main__":
    run(main)
