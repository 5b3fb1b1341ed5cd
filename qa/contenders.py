"""Ways to answer questions, this project's and others', behind one interface: what is compared.

Each is the code that its users write, on the models of this pipeline. Knows nothing of clocks; the
imports are inside the functions, because each way is loaded in a process of its own, and others' in
another environment (`qa.workers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qa.features import WindowSet
from qa.params import Decoding, Precision, Windows
from qa.processor import has_bf16

if TYPE_CHECKING:
    from qa.engine import Engine
    from qa.logits import Forward

OPENVINO, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True)
class Setting:
    """What all contenders are given.

    Attributes:
        checkpoint: folder of the FP32 model in torch.
        fp32, int8: folders of the exported models.
        optimum_intel: folder of what `quantize_with_optimum_intel` makes.
    """

    checkpoint: Path
    fp32: Path
    int8: Path
    optimum_intel: Path
    windows: Windows
    decoding: Decoding


class Contender(Protocol):
    """A way to answer questions, loaded and ready."""

    def answer(self, question: str, context: str) -> str:
        """Answer one question."""
        ...

    def answer_table(self, table: Path, output: Path) -> None:
        """Answer a CSV with the columns Context and Question; write it with the column Answer."""
        ...


@dataclass(frozen=True)
class Pipeline:
    """`transformers.pipeline("question-answering")`, as it comes: one question at a time."""

    reader: Any
    windows: Windows
    decoding: Decoding

    def answer(self, question: str, context: str) -> str:
        """Answer one question."""
        text: str = self.reader(
            question=question,
            context=context,
            max_seq_len=self.windows.max_length,
            doc_stride=self.windows.doc_stride,
            max_question_len=self.windows.max_question_length,
            max_answer_len=self.decoding.max_answer_length,
            handle_impossible_answer=self.decoding.version_2_with_negative,
        )["answer"]
        return text

    def answer_table(self, table: Path, output: Path) -> None:
        """Answer a CSV, row by row."""
        _row_by_row(self, table, output)


@dataclass(frozen=True)
class Notebook:
    """The notebook that this project replaces: one row at a time, two independent argmaxes.

    Its 11 runs a row, for timing, are left out.
    """

    model: Any
    tokenizer: Any
    max_length: int

    def answer(self, question: str, context: str) -> str:
        """Answer one question."""
        inputs = self.tokenizer(
            question, context, truncation=True, max_length=self.max_length, return_tensors="np"
        )
        outputs = self.model(**inputs)
        start, end = int(outputs.start_logits.argmax()), int(outputs.end_logits.argmax())
        ids = inputs["input_ids"][0][start : end + 1]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def answer_table(self, table: Path, output: Path) -> None:
        """Answer a CSV, row by row."""
        _row_by_row(self, table, output)


@dataclass
class Project:
    """This project: `stages/infer.py`, for a CSV and for one question."""

    folder: Path
    setting: Setting
    provider: str = OPENVINO
    precision: Precision = "fp32"

    def answer(self, question: str, context: str) -> str:
        """Answer one question."""
        from qa.squad import Example

        text: str = self._for_one.answer([Example("", question, context)])[0].text
        return text

    def answer_table(self, table: Path, output: Path) -> None:
        """Answer a CSV, as `qa.answering.answer_csv` does with sessions that are not kept."""
        from dataclasses import replace

        from qa.journal import Journal
        from qa.outputs import resumable_file
        from qa.table import answer_table, check_table

        engine = self._for_tables
        with resumable_file(output) as unfinished:
            checked = check_table(table)
            with Journal(unfinished, "") as journal:
                journaled = replace(engine, forward=journal.remember(engine.forward))
                answer_table(checked, unfinished, journal, journaled.answer_chunks)

    @cached_property
    def _for_one(self) -> Engine:
        from qa.sessions import MODEL_CACHE, onnx_forward

        forward = onnx_forward(self.folder, self.provider, self.precision, MODEL_CACHE)
        return self._engine(forward, 1)

    @cached_property
    def _for_tables(self) -> Engine:
        from qa.sessions import MODEL_CACHE, Sessions

        sessions = Sessions(self.folder, self.provider, self.precision, MODEL_CACHE)
        return self._engine(sessions.forward, sessions.count)

    def _engine(self, forward: Forward, concurrency: int) -> Engine:
        from qa.engine import Engine
        from qa.features import load_tokenizer

        tokenizer = load_tokenizer(self.folder)
        return Engine(forward, tokenizer, self.setting.windows, self.setting.decoding, concurrency)


def _row_by_row(contender: Contender, table: Path, output: Path) -> None:
    import pandas as pd

    rows = pd.read_csv(table, dtype=str, na_filter=False)
    rows["Answer"] = [
        contender.answer(question, context)
        for context, question in zip(rows["Context"], rows["Question"], strict=True)
    ]
    rows.to_csv(output, index=False)


def _pipeline(model: Any, folder: Path, setting: Setting) -> Pipeline:
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    reader = pipeline(
        "question-answering",
        model=model,
        tokenizer=tokenizer,
        device="cpu",
        trust_remote_code=False,
    )
    return Pipeline(reader, setting.windows, setting.decoding)


def _torch_pipeline(setting: Setting) -> Pipeline:
    from transformers import AutoModelForQuestionAnswering

    folder = setting.checkpoint
    model = AutoModelForQuestionAnswering.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True
    )
    return _pipeline(model, folder, setting)


def _optimum(folder: Path) -> Any:
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForQuestionAnswering

    options = SessionOptions()
    options.log_severity_level = 3
    return ORTModelForQuestionAnswering.from_pretrained(
        folder, trust_remote_code=False, provider=OPENVINO, session_options=options
    )


def _notebook(folder: Path, setting: Setting) -> Notebook:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Notebook(_optimum(folder), tokenizer, setting.windows.max_length)


def _optimum_intel_pipeline(setting: Setting) -> Pipeline:
    from optimum.intel import OVModelForQuestionAnswering

    folder = setting.optimum_intel
    return _pipeline(
        OVModelForQuestionAnswering.from_pretrained(folder, trust_remote_code=False),
        folder,
        setting,
    )


REFERENCE = "pipeline, torch FP32"
"""The contender to which the benchmark's figures are ratios."""

PROJECT_INT8 = "this project, INT8"

CONTENDERS: dict[str, Callable[[Setting], Contender]] = {
    REFERENCE: _torch_pipeline,
    "notebook, FP32": lambda setting: _notebook(setting.fp32, setting),
    "notebook, INT8": lambda setting: _notebook(setting.int8, setting),
    "pipeline, Optimum ORT INT8": lambda s: _pipeline(_optimum(s.int8), s.int8, s),
    "pipeline, Optimum Intel INT8": _optimum_intel_pipeline,
    "this project, CPU provider INT8": lambda setting: Project(setting.int8, setting, CPU),
    "this project, FP32": lambda setting: Project(setting.fp32, setting),
    PROJECT_INT8: lambda setting: Project(setting.int8, setting),
}
"""By name, what loads each way of answering."""


def is_peer(name: str) -> bool:
    """Whether a contender is another library's way, which needs the peers' environment."""
    return not name.startswith("this project")


if has_bf16():
    CONTENDERS["this project, INT8 and BF16"] = lambda setting: Project(
        setting.int8, setting, precision="bf16"
    )


def quantize_with_optimum_intel(windows: WindowSet, setting: Setting) -> None:
    """Optimum Intel's own post-training quantization to INT8, with its defaults.

    Args:
        windows: the calibration set.
    """
    from datasets import Dataset
    from optimum.intel import (
        OVConfig,
        OVModelForQuestionAnswering,
        OVQuantizationConfig,
        OVQuantizer,
    )
    from transformers import AutoTokenizer

    model = OVModelForQuestionAnswering.from_pretrained(
        setting.checkpoint, export=True, trust_remote_code=False
    )
    quantizer = OVQuantizer.from_pretrained(model, trust_remote_code=False)
    quantizer.quantize(
        calibration_dataset=Dataset.from_list(
            [
                {key: row[0].tolist() for key, row in windows.pad([i]).items()}
                for i in range(len(windows))
            ]
        ),
        ov_config=OVConfig(quantization_config=OVQuantizationConfig(num_samples=len(windows))),
        save_directory=setting.optimum_intel,
    )
    AutoTokenizer.from_pretrained(setting.checkpoint, trust_remote_code=False).save_pretrained(
        setting.optimum_intel
    )
