"""Stage benchmark: this project beside other ways to answer a CSV, in one run.

Writes metrics/benchmark.json, a table and a picture. Timings are never the same twice: nothing
depends on them, and a plain `dvc repro` leaves them out.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path
from tempfile import TemporaryDirectory

from bert_qa.errors import run
from bert_qa.params import Benchmark, Calibrate, Decoding, Evaluate, Sections, Windows, read_params

VALIDATION, WINDOWS = Path("data/squad/validation.jsonl"), Path("data/windows/train.arrow")
FP32, PTQ = Path("models/fp32"), Path("models/ptq")
ONNX = Path("models/onnx")


class Params(Sections):
    windows: Windows
    decoding: Decoding
    calibrate: Calibrate
    evaluate: Evaluate
    benchmark: Benchmark


def main() -> None:
    import pandas as pd

    from benchmark.contenders import Setting
    from benchmark.measure import measure_all, summary
    from benchmark.plot import draw, draw_speed
    from benchmark.training_step import step_seconds
    from bert_qa.cpu import machine
    from bert_qa.files import whole_file, write_json
    from bert_qa.squad import read_examples, subset
    from bert_qa.window_files import read_windows

    params = read_params(Params)
    examples = subset(read_examples(VALIDATION), params.benchmark.questions, seed=0)
    calibrate = params.calibrate
    windows = read_windows(WINDOWS).windows.draw(calibrate.examples, calibrate.seed)
    print("training steps", flush=True)
    steps = step_seconds(FP32, PTQ, windows, params.benchmark.steps)
    with TemporaryDirectory() as name:
        folder = Path(name)
        exported = (ONNX / "fp32", ONNX / "ptq", ONNX / "qat")
        optimum_intel = folder / "optimum-intel"
        setting = Setting(FP32, *exported, optimum_intel, params.windows, params.decoding)
        measured = measure_all(
            examples, windows, setting, folder, params.benchmark, language=params.evaluate.language
        )
    content = {"machine": machine(), **measured, "training_step_s": steps}
    write_json(Path("metrics/benchmark.json"), content)
    with whole_file(Path("metrics/benchmark.csv")) as partial:
        rows = pd.DataFrame.from_dict(measured["contenders"], orient="index")
        rows.to_csv(partial, index_label="contender")
    title = f"{len(examples)} questions, {machine()}"
    with whole_file(Path("metrics/benchmark.png")) as partial:
        draw(measured["contenders"], measured["growth"], params.benchmark.lengths, title, partial)
    with whole_file(Path("metrics/speed.png")) as partial:
        draw_speed(measured["contenders"], title, partial)
    print(summary(measured["contenders"]))


if __name__ == "__main__":
    run(main)
