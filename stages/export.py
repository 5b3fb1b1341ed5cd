"""Stage export: FP32 and INT8 ONNX, each compared with the torch model it came from.

Writes models/onnx/fp32/ and models/onnx/int8/, which Optimum and transformers load as they are.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qa.checkpoints import load_model
from qa.engine import pad_token
from qa.errors import run
from qa.export import check_same, describe, relative_difference, to_onnx, write_folder
from qa.features import load_tokenizer, make_windows
from qa.outputs import whole_folder
from qa.params import read_params
from qa.quantization import load_quantized, strip
from qa.squad import read_examples, subset

SOURCES = {"fp32": Path("models/fp32"), "int8": Path("models/qat")}
LIMITS = {"fp32": 1e-4, "int8": 5e-2}
CHECKED_QUESTIONS = 16


def main() -> None:
    params = read_params()
    tokenizer = load_tokenizer(SOURCES["fp32"])
    pad_id = pad_token(tokenizer)
    examples = subset(read_examples(Path("data/squad/validation.jsonl")), CHECKED_QUESTIONS, 0)
    windows = make_windows(examples, tokenizer, **params.windows.model_dump())
    fp32, _ = load_model(SOURCES["fp32"], dropout=True)
    quantized = load_quantized(SOURCES["int8"])
    for name, model, exported in (
        ("fp32", fp32, fp32),
        ("int8", quantized, strip(quantized, windows[0], pad_id)),
    ):
        metadata = describe(name, SOURCES, [params.dataset, params.model, params.train])
        graph = to_onnx(exported, windows[:2], pad_id, metadata)
        difference = relative_difference(graph, model, windows, pad_id)
        print(f"{name}: differs from torch by {difference:.1e} of its logits", flush=True)
        check_same(f"models/onnx/{name}", difference, LIMITS[name])
        with whole_folder(Path("models/onnx") / name) as out:
            write_folder(out, graph, fp32.config, tokenizer)


if __name__ == "__main__":
    run(main)
