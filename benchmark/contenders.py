"""Ways to answer questions, this project's and others', behind one interface: what is compared.

Each is the code that its users write, on the models of this pipeline. Knows nothing of clocks; the
imports are inside the functions, because each way is loaded in a process of its own, and others' in
another environment (`benchmark.processes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bert_qa.cpu import has_bf16
from bert_qa.params import Decoding, Precision, Provider, Windows
from bert_qa.windows import WindowSet

if TYPE_CHECKING:
    from bert_qa.engine import Engine

OPENVINO: Provider = "OpenVINOExecutionProvider"
CPU: Provider = "CPUExecutionProvider"


@dataclass(frozen=True)
class Setting:
    """What all contenders are given.

    Attributes:
        checkpoint: folder of the FP32 model in torch.
        fp32, ptq, qat: folders of the exported models.
        optimum_intel: folder of what `quantize_with_optimum_intel` makes.
    """

    checkpoint: Path
    fp32: Path
    ptq: Path
    qat: Path
    optimum_intel: Path
    windows: Windows
    decoding: Decoding


class Answering(Protocol):
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
    provider: Provider = OPENVINO
    precision: Precision = "fp32"

    def answer(self, question: str, context: str) -> str:
        """Answer one question."""
        from bert_qa.squad import Example

        text: str = self._for_one.answer([Example("", question, context)])[0].text
        return text

    def answer_table(self, table: Path, output: Path) -> None:
        """Answer a CSV as `answer_tables` does, with sessions that are kept."""
        from dataclasses import replace

        from bert_qa.files import resumable_file
        from bert_qa.journal import Journal
        from bert_qa.tables.table import answer_table, check_table

        engine = self._for_tables
        with resumable_file(output) as unfinished:
            checked = check_table(table)
            with Journal(unfinished, "") as journal:
                journaled = replace(engine, forward=journal.remember(engine.forward))
                answer_table(checked, unfinished, journal, journaled.answer_chunks)

    @cached_property
    def _for_one(self) -> Engine:
        return self._engine(sessions=None)

    @cached_property
    def _for_tables(self) -> Engine:
        return self._engine(sessions="auto")

    def _engine(self, sessions: Literal["auto"] | None) -> Engine:
        from bert_qa.answering import open_engine

        return open_engine(
            self.folder,
            self.setting.windows,
            self.setting.decoding,
            provider=self.provider,
            precision=self.precision,
            sessions=sessions,
        )


def _row_by_row(contender: Answering, table: Path, output: Path) -> None:
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


@dataclass(frozen=True)
class Contender:
    """A way to answer questions, and what a reader of its figures must know.

    Attributes:
        name: in tables and pictures.
        precision: of the model.
        load: makes it ready, in the process that it is called in.
        peer: whether it is another library's, which needs the peers' environment.
    """

    name: str
    precision: Literal["FP32", "INT8"]
    load: Callable[[Setting], Answering]
    peer: bool = False


REFERENCE = "pipeline, torch FP32"
"""The contender to which the benchmark's figures are ratios."""

PROJECT_INT8 = "this project, INT8"

_ALL = [
    Contender(REFERENCE, "FP32", _torch_pipeline, peer=True),
    Contender("notebook, FP32", "FP32", lambda s: _notebook(s.fp32, s), peer=True),
    Contender("notebook, INT8", "INT8", lambda s: _notebook(s.qat, s), peer=True),
    Contender(
        "pipeline, Optimum ORT INT8",
        "INT8",
        lambda s: _pipeline(_optimum(s.qat), s.qat, s),
        peer=True,
    ),
    Contender("pipeline, Optimum Intel INT8", "INT8", _optimum_intel_pipeline, peer=True),
    Contender("this project, CPU provider INT8", "INT8", lambda s: Project(s.qat, s, CPU)),
    Contender("this project, FP32", "FP32", lambda s: Project(s.fp32, s)),
    Contender("this project, INT8 PTQ", "INT8", lambda s: Project(s.ptq, s)),
    Contender(PROJECT_INT8, "INT8", lambda s: Project(s.qat, s)),
]
_BF16 = Contender(
    "this project, INT8 and BF16", "INT8", lambda s: Project(s.qat, s, precision="bf16")
)

CONTENDERS = {each.name: each for each in (*_ALL, *([_BF16] if has_bf16() else []))}
"""By name, every way to answer that this processor can run."""


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
