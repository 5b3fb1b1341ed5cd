"""Stage evaluate: EM and F1 of FP32, PTQ and QAT on the execution provider.

Writes metrics/evaluation.json, the tables of plots and the answers of each model in SQuAD's
prediction format; then fails if INT8 lost more than `evaluate.max_f1_drop`.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pathlib import Path

from bert_qa.errors import run
from bert_qa.params import Decoding, Evaluate, Sections, Trained, read_params

FOLDERS = {name: Path("models/onnx") / name for name in ("fp32", "ptq", "qat")}


class Params(Sections):
    decoding: Decoding
    train: Trained
    evaluate: Evaluate


def main() -> None:
    # Here and not above, where the processes of Sessions would import torch for nothing.
    from bert_qa.evaluation import check_f1_drop, compare, evaluate, summary
    from bert_qa.files import whole_file, whole_folder, write_json
    from bert_qa.plots import plot_tables
    from bert_qa.progress import progress
    from bert_qa.sessions import Sessions
    from bert_qa.squad import read_examples
    from bert_qa.window_files import read_windows

    params = read_params(Params)
    trained = params.train.epochs > 0
    examples = read_examples(Path("data/squad/validation.jsonl"))
    windows = read_windows(Path("data/windows/validation.arrow")).windows
    results = {}
    with whole_folder(Path("data/predictions")) as out:  # held from here: no second run beside
        for name, folder in FOLDERS.items():
            with (
                Sessions(folder, params.evaluate.provider, params.evaluate.precision) as sessions,
                progress(name, len(windows), "window") as bar,
            ):
                results[name] = evaluate(
                    sessions.forward,
                    examples,
                    windows,
                    decoding=params.decoding,
                    file=folder / "model.onnx",
                    language=params.evaluate.language,
                    progress=bar.update,
                    concurrency=sessions.count,
                )
        for name, result in results.items():
            texts = (answer.text for answer in result.answers)
            ids = (example.id for example in examples)
            write_json(out / f"{name}.json", dict(zip(ids, texts, strict=True)))
    for name, table in plot_tables(results, trained).items():
        with whole_file(Path(f"metrics/plots/{name}.csv")) as partial:
            table.to_csv(partial, index=False, lineterminator="\n")
    metrics = compare(results)
    write_json(Path("metrics/evaluation.json"), metrics)
    print(summary(metrics, trained))
    check_f1_drop(metrics, params.evaluate.max_f1_drop)


if __name__ == "__main__":
    run(main)
