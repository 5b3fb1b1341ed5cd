"""Stage evaluate: EM and F1 of the FP32 and the INT8 model on the execution provider.

Writes metrics/evaluation.json, a plot of F1 by question word and the answers of both models in
SQuAD's prediction format; then fails if INT8 lost more than `evaluate.max_f1_drop`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from qa.engine import Engine, onnx_forward
from qa.errors import UserError, run
from qa.evaluation import check_answerable, compare, f1_by_question_word, summary
from qa.features import load_tokenizer
from qa.metrics import score_each
from qa.outputs import whole_file, whole_folder, write_json
from qa.params import read_params
from qa.squad import read_examples

MODELS = {"fp32": Path("models/onnx/fp32"), "int8": Path("models/onnx/int8")}


def main() -> None:
    params = read_params()
    examples = read_examples(Path("data/squad/validation.jsonl"))
    check_answerable(examples, params.decoding)
    answers = {}
    for name, folder in MODELS.items():
        forward = onnx_forward(folder, params.evaluate.provider)
        engine = Engine(forward, load_tokenizer(folder), params.windows, params.decoding)
        with tqdm(total=len(examples), desc=name, unit="question") as bar:
            answers[name] = engine.answer(examples, bar.update)
    scores = {name: score_each(examples, given) for name, given in answers.items()}
    with whole_folder(Path("data/predictions")) as out:
        for name in MODELS:
            texts = (answer.text for answer in answers[name])
            ids = (example.id for example in examples)
            write_json(out / f"{name}.json", dict(zip(ids, texts, strict=True)))
    with whole_file(Path("metrics/f1_by_question.csv")) as partial:
        f1_by_question_word(examples, scores).to_csv(partial, index=False, lineterminator="\n")
    metrics = compare(
        examples, answers, scores, {name: folder / "model.onnx" for name, folder in MODELS.items()}
    )
    write_json(Path("metrics/evaluation.json"), metrics)
    print(summary(metrics))
    drop = -metrics["difference"]["f1"]
    if drop > params.evaluate.max_f1_drop:
        raise UserError(
            f"INT8 loses {drop:.2f} points of F1, more than evaluate.max_f1_drop"
            f" ({params.evaluate.max_f1_drop:g}); train longer, or raise the limit"
        )


if __name__ == "__main__":
    run(main)
