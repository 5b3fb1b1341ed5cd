"""What runs in the peers' environment for a test, sent there by `benchmark.processes.in_peers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def pipeline_answers(
    folder: Path, questions: Sequence[tuple[str, str]], *options: dict[str, Any]
) -> list[list[Any]]:
    """What `transformers.pipeline` over Optimum answers from an exported folder as it is.

    Returns:
        With each of `options`, the answers to all questions.
    """
    from optimum.onnxruntime import ORTModelForQuestionAnswering
    from transformers import AutoTokenizer, pipeline

    reader = pipeline(
        "question-answering",
        model=ORTModelForQuestionAnswering.from_pretrained(
            folder, provider="OpenVINOExecutionProvider", trust_remote_code=False
        ),
        tokenizer=AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        trust_remote_code=False,
    )
    return [
        [reader(question=question, context=context, **some) for question, context in questions]
        for some in options
    ]


def encode(folder: Path, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """The token ids of pairs of texts, by transformers 4."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return [tokenizer(*pair)["input_ids"] for pair in pairs]


def save_anew(
    source: Path, out: Path, config: dict[str, Any], pairs: Sequence[tuple[str, str]]
) -> list[list[int]]:
    """Save a tiny model and a tokenizer with one more token, as this transformers does.

    Args:
        source: folder with a tokenizer.
        config: of the model, with its `model_type`.

    Returns:
        The token ids of pairs of texts, by the tokenizer that was saved.
    """
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<title>"]})
    tokenizer.save_pretrained(out)
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(
        AutoConfig.for_model(**config, vocab_size=len(tokenizer)), trust_remote_code=False
    )
    model.save_pretrained(out)
    return [tokenizer(*pair)["input_ids"] for pair in pairs]


def answer_of(code: str) -> Any:
    """What an example calls `answer`."""
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    return names["answer"]
