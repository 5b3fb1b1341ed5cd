"""Stage infer: answers to every row of a CSV, or to one question from the command line.

python stages/infer.py                              infer.input to infer.output of params.yaml
python stages/infer.py --question Q --context C     prints the answer
python stages/infer.py --model FOLDER               either, by a released model that was fetched
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
from pathlib import Path

from bert_qa.errors import UserError, run
from bert_qa.params import Decoding, Infer, Sections, Windows, read_params

MODEL = Path("models/onnx/qat")


class Params(Sections):
    windows: Windows
    decoding: Decoding
    infer: Infer


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a CSV, or one question on one context.")
    parser.add_argument("--question", default="", help="one question; needs --context")
    parser.add_argument("--context", default="", help="the text that holds the answer")
    parser.add_argument("--model", type=Path, default=MODEL, help="in place of the pipeline's own")
    arguments = parser.parse_args()
    question, context = arguments.question.strip(), arguments.context.strip()
    if bool(question) != bool(context):
        given, other = ("--question", "--context") if question else ("--context", "--question")
        raise UserError(f"{given} is given and {other} is empty: give both, or neither for a CSV")
    if arguments.model != MODEL and not (arguments.model / "model.onnx").is_file():
        raise UserError(
            f"--model: no model.onnx in {arguments.model}; give the folder that"
            " `dvc artifacts get` made"
        )
    params = read_params(Params)

    asked = (arguments.model, params.windows, params.decoding, params.infer)
    if question:
        from bert_qa.answering import answer_one  # slow to import, and not by these mistakes

        print(answer_one(*asked, question=question, context=arguments.context).text)
    else:
        from bert_qa.answering_tables import Asked, answer_tables

        answer_tables(Asked(*asked))


if __name__ == "__main__":
    run(main)
