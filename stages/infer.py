"""Stage infer: answers to every row of a CSV, or to one question from the command line.

python stages/infer.py                              infer.input to infer.output of params.yaml
python stages/infer.py --question Q --context C     prints the answer
python stages/infer.py --model FOLDER               either, by a released model that was fetched
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.errors import UserError, run
from qa.params import read_params
from qa.squad import Example

MODEL = Path("models/onnx/int8")


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
    params = read_params()
    table, output = Path(params.infer.input), Path(params.infer.output)

    from qa.engine import Engine
    from qa.features import load_tokenizer
    from qa.sessions import MODEL_CACHE, Sessions, onnx_forward

    model = (arguments.model, params.infer.provider, params.infer.precision, MODEL_CACHE)
    tokenizer = load_tokenizer(arguments.model)
    asked = (tokenizer, params.windows, params.decoding)
    if question:
        engine = Engine(onnx_forward(*model), *asked)
        print(engine.answer([Example("0", question, arguments.context)])[0].text)
        return

    from tqdm import tqdm

    from qa.table import answer_table, check_table

    rows = check_table(table, output)  # before the model is loaded
    with Sessions(*model) as sessions, tqdm(total=rows, desc=str(table), unit="row") as bar:
        engine = Engine(sessions.forward, *asked, sessions.count)
        answer_table(table, output, lambda chunks: engine.answer_chunks(chunks, bar.update))
    print(f"{output}: {rows} rows")


if __name__ == "__main__":
    run(main)
