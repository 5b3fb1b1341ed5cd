"""Stage benchmark: this project beside other ways to answer a CSV, in one run.

Writes metrics/benchmark.json, a table for DVC's plot and metrics/benchmark.png. Nothing depends on
it, and a plain `dvc repro` leaves it out: timings are never the same twice.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.errors import run
from qa.params import read_params

TRAIN, VALIDATION = Path("data/squad/train.jsonl"), Path("data/squad/validation.jsonl")
FP32, PTQ = Path("models/fp32"), Path("models/ptq")
ONNX_FP32, ONNX_INT8 = Path("models/onnx/fp32"), Path("models/onnx/int8")


def main() -> None:
    import pandas as pd

    from qa.account import account
    from qa.benchmark import compare, growth, summary
    from qa.contenders import PROJECT_INT8, Setting, quantize_with_optimum_intel
    from qa.features import load_tokenizer, make_windows
    from qa.outputs import whole_file, write_json
    from qa.plot import draw
    from qa.processor import machine
    from qa.squad import read_examples, subset
    from qa.steps import step_seconds
    from qa.workers import in_peers

    params = read_params()
    tokenizer = load_tokenizer(ONNX_INT8)
    examples = subset(read_examples(VALIDATION), params.benchmark.questions, seed=0)
    calibration = subset(read_examples(TRAIN), params.calibrate.examples, params.calibrate.seed)
    windows = make_windows(calibration, tokenizer, **params.windows.model_dump())
    print("training steps", flush=True)
    steps = step_seconds(FP32, PTQ, windows, tokenizer.pad_token_id, params.benchmark.steps)
    with TemporaryDirectory() as name:
        folder = Path(name)
        setting = Setting(
            FP32, ONNX_FP32, ONNX_INT8, folder / "optimum-intel", params.windows, params.decoding
        )
        print("Optimum Intel quantizes its own INT8 model", flush=True)
        in_peers(quantize_with_optimum_intel, windows, tokenizer.pad_token_id, setting)
        language = params.evaluate.language
        contenders = compare(
            examples, tokenizer, setting, folder, params.benchmark, language=language
        )
        long = growth(examples, setting, folder, params.benchmark.rows)
        seconds = len(examples) / contenders[PROJECT_INT8]["questions_per_second"]
        content = {
            "machine": machine(),
            "questions": len(examples),
            "contenders": contenders,
            "growth": long,
            "account": account(setting, examples, seconds),
            "training_step_s": steps,
        }
    write_json(Path("metrics/benchmark.json"), content)
    with whole_file(Path("metrics/benchmark.csv")) as partial:
        rows = pd.DataFrame.from_dict(contenders, orient="index")
        rows.to_csv(partial, index_label="contender")
    with whole_file(Path("metrics/benchmark.png")) as partial:
        draw(contenders, long, f"{len(examples)} questions, {machine()}", partial)
    print(summary(contenders))


if __name__ == "__main__":
    run(main)
