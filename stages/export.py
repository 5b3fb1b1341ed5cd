"""Stage export: FP32 and INT8 ONNX, each compared with the torch model it came from.

Writes models/onnx/fp32/ and models/onnx/int8/, which Optimum and transformers load as they are.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.checkpoints import WEIGHTS_FILE, load_model
from qa.errors import run
from qa.export import check_same, describe, relative_difference, to_onnx, write_folder
from qa.features import load_tokenizer, make_windows, pad_token
from qa.outputs import whole_folder
from qa.params import read_params
from qa.quantization import load_quantized, strip
from qa.squad import read_examples, subset

FP32, QAT, DATA = Path("models/fp32"), Path("models/qat"), Path("data/squad")
LIMITS = {"fp32": 1e-4, "int8": 5e-2}
CHECKED_QUESTIONS = 16


def main() -> None:
    params = read_params()
    tokenizer = load_tokenizer(FP32)
    pad_id = pad_token(tokenizer)
    examples = subset(read_examples(DATA / "validation.jsonl"), CHECKED_QUESTIONS, seed=0)
    windows = make_windows(examples, tokenizer, **params.windows.model_dump())
    sources = {
        "model": f"{params.model.name}@{params.model.revision}",
        "dataset": f"{params.dataset.name}@{params.dataset.revision}",
    }
    files = {"train": DATA / "train.jsonl", "fp32": FP32 / WEIGHTS_FILE}
    fp32, _ = load_model(FP32, dropout=True)
    qat = load_quantized(QAT)
    of_fp32 = describe(sources, files, {"finetune": params.finetune})
    files["qat"] = QAT / WEIGHTS_FILE
    of_int8 = describe(sources, files, {"finetune": params.finetune, "qat": params.train})
    graphs = {}
    for name, model, exported, metadata in (
        ("fp32", fp32, fp32, of_fp32),
        ("int8", qat, strip(qat, windows[0], pad_id), of_int8),
    ):
        graphs[name] = to_onnx(exported, windows[:2], pad_id, metadata)
        difference = relative_difference(graphs[name], model, windows, pad_id)
        print(f"{name}: differs from torch by {difference:.1e} of its logits", flush=True)
        check_same(f"models/onnx/{name}", difference, LIMITS[name])
    for name, graph in graphs.items():
        with whole_folder(Path("models/onnx") / name) as out:
            write_folder(out, graph, fp32.config, tokenizer)


if __name__ == "__main__":
    run(main)
