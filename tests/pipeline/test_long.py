"""Models that read thousands of tokens at once: windows of 2,048 tokens, all the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_qa.checkpoints import load_model, save_checkpoint, torch_forward
from bert_qa.engine import Engine
from bert_qa.errors import UserError
from bert_qa.export import to_onnx, write_folder
from bert_qa.intake import build_checkpoint
from bert_qa.logits import relative_rms, run_windows
from bert_qa.params import Decoding, Windows
from bert_qa.probe import TRAINING, check_windows
from bert_qa.sessions import Sessions
from bert_qa.squad import Example, Span, read_questions
from bert_qa.training import train
from bert_qa.windows import Tokenizer, label_windows, load_tokenizer, make_windows
from tests.conftest import ROOT
from tests.encoders import tiny

WINDOWS = Windows(max_length=2048, doc_stride=512, max_question_length=64)
DECODING = Decoding(
    max_answer_length=30, version_2_with_negative=False, null_score_diff_threshold=0.0
)
POSITIONS = 2100


@pytest.fixture(params=["modernbert", "roformer"])
def base(
    request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Tokenizer, tokenizer_folder: Path
) -> Path:
    """A tiny model that reads 2,100 tokens, as download_model leaves it."""
    source, base = tmp_path / "source", tmp_path / "base"
    source.mkdir()
    base.mkdir()
    model = tiny(request.param, tokenizer.backend.get_vocab_size(), POSITIONS)
    save_checkpoint(source, model, tokenizer_folder)
    file = source / "tokenizer_config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**fields, "model_max_length": POSITIONS}), encoding="utf-8")
    build_checkpoint(source, base, request.param)
    return base


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Questions on a text of some 5,000 tokens, on one of 2,000 and on a short one."""
    some = read_questions(ROOT / "data/sample/train.json")
    contexts = list(dict.fromkeys(example.context for example in some))
    random.Random(0).shuffle(contexts)
    made = []
    for count in (30, 12, 1):
        context = " ".join(contexts[:count])
        last = contexts[count - 1].split()[-1]
        made.append(
            Example(str(count), "What comes last?", context, (Span(last, context.rindex(last)),))
        )
    return made


def test_windows_of_2048_tokens(base: Path, examples: list[Example], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    model, _ = load_model(base, dropout=False)
    check_windows(model, tokenizer, WINDOWS)
    windows = make_windows(examples, tokenizer, **WINDOWS.model_dump())
    lengths = [len(window) for window in windows]
    assert max(lengths) == 2048
    assert len(windows) >= 5
    folder = tmp_path / "onnx"
    folder.mkdir()
    write_folder(folder, to_onnx(model, windows[-2:], {}), base)
    with Sessions(folder, "OpenVINOExecutionProvider", "fp32") as sessions:
        ours = run_windows(sessions.forward, windows)
        engine = Engine(sessions.forward, tokenizer, WINDOWS, DECODING, sessions.count)
        answers = engine.answer(examples)
    torchs = run_windows(torch_forward(model), windows)
    assert relative_rms(ours, torchs) < 1e-3
    for example, answer in zip(examples, answers, strict=True):
        assert answer.text
        assert example.context[answer.start : answer.end] == answer.text


def test_training_on_windows_of_2048_tokens(
    base: Path, examples: list[Example], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(base)
    model, _ = load_model(base, dropout=False)
    windows = make_windows(examples, tokenizer, **WINDOWS.model_dump())
    labelled = label_windows(windows, examples)
    assert labelled.ends.max() > 1024
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    params = TRAINING.model_copy(update={"learning_rate": 1e-3, "max_steps": 2})
    train(
        model,
        labelled,
        params,
        epochs=1,
        checkpoints=tmp_path / "checkpoints/run",
        logs=tmp_path / "logs",
    )
    after = model.state_dict()
    assert any(not np.array_equal(tensor, after[name]) for name, tensor in before.items())
    assert all(np.isfinite(tensor).all() for tensor in after.values())


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from bert_qa.checkpoints import load_model
from bert_qa.errors import run
from bert_qa.windows import label_windows, load_tokenizer, make_windows
from bert_qa.probe import TRAINING
from bert_qa.squad import Example
from bert_qa.training import train

def main():
    base, out = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = load_tokenizer(base)
    model, _ = load_model(base, dropout=False)
    examples = [Example(str(n), "Who?", "Ada was here. " * 1000) for n in range(16)]
    windows = make_windows(
        examples, tokenizer, max_length=2048, doc_stride=512, max_question_length=64
    )
    status = Path("/proc/self/status").read_text()
    size = 1024 * int(status.partition("VmSize:")[2].split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size + 10**9, size + 10**9))
    params = TRAINING.model_copy(update={"batch_size": 32})
    train(model, label_windows(windows, examples), params, epochs=1, checkpoints=out / "run",
          logs=out / "logs")

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.fault("a batch of long windows that does not fit into memory")
def test_a_batch_that_does_not_fit_is_one_line(base: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SHORT_OF_MEMORY)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", base, tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert lines == [
        "error: params.yaml: train.batch_size: found 32; memory ran out on the longest windows:"
        " lower it, or windows.max_length"
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.fault("windows longer than the model reads")
def test_more_tokens_than_the_model_reads_are_refused(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    model, _ = load_model(base, dropout=False)
    longer = WINDOWS.model_copy(update={"max_length": 4096})
    with pytest.raises(UserError, match=r"windows\.max_length: found 4096; .* 2100"):
        check_windows(model, tokenizer, longer)
