"""The command `bert-qa`: answers a table, or one question, with a released model.

Turns options into parameters and calls `bert_qa.answering`. Knows no params.yaml and no DVC.
"""

from __future__ import annotations

import argparse
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bert_qa.errors import UserError, run

if TYPE_CHECKING:
    from bert_qa.params import Decoding, Infer, Windows

DISTRIBUTION = "bert-qa"


def main() -> None:
    """Run the command with the arguments of the process."""
    run(_main)


def _main() -> None:
    arguments = make_parser().parse_args()
    try:
        arguments.command(arguments)
    except UserError as error:
        raise UserError(as_options(str(error))) from None


def make_parser() -> argparse.ArgumentParser:
    """The command's line: `answer` and `ask` with their options."""
    parser = argparse.ArgumentParser(
        prog=DISTRIBUTION, description="Answer questions from texts with a released INT8 model."
    )
    parser.add_argument("--version", action="version", version=version(DISTRIBUTION))
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    answer = commands.add_parser("answer", help="answer the rows of tables")
    answer.set_defaults(command=_answer)
    answer.add_argument(
        "input",
        help="CSV, Parquet or JSON Lines with Context and Question: a file, a folder or a pattern,"
        " here or abfs://container/path",
    )
    answer.add_argument(
        "-o",
        "--output",
        required=True,
        help="file to write in the format of the input; FOLDER/ for several, each a part",
    )
    _add_model(answer)
    answer.add_argument(
        "--on-error",
        choices=["fail", "keep"],
        default="fail",
        help="keep: a row that cannot be answered gets an empty answer and the reason",
    )
    answer.add_argument(
        "--escape-formulas",
        action="store_true",
        help="put a ' before cells that a spreadsheet would run",
    )
    answer.add_argument(
        "--sessions",
        type=_sessions,
        default="auto",
        metavar="N",
        help="processes that run the model (default: as processors and free memory allow)",
    )
    answer.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="answer on a Ray cluster, HOST:PORT; auto starts one on this machine",
    )

    ask = commands.add_parser("ask", help="answer one question")
    ask.set_defaults(command=_ask)
    ask.add_argument("--question", required=True)
    ask.add_argument("--context", required=True, help="the text that holds the answer")
    _add_model(ask)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a released model")
    parser.add_argument(
        "--provider",
        choices=["OpenVINOExecutionProvider", "CPUExecutionProvider"],
        default="OpenVINOExecutionProvider",
        help="of ONNX Runtime (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="of the operators that stay in floating point; bf16 where the processor has it",
    )
    parser.add_argument(
        "--max-context-characters",
        type=_count,
        default=2_000_000,
        metavar="N",
        help="a longer text is refused (default: %(default)s)",
    )


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number < 2**31:
        raise ValueError
    return number


def _sessions(text: str) -> int | str:
    return text if text == "auto" else _count(text)


# What argparse calls them in "invalid ... value".
_count.__name__, _sessions.__name__ = "positive number", "positive number or auto"


def _answer(arguments: argparse.Namespace) -> None:
    from bert_qa.answering_tables import Asked, answer_tables
    from bert_qa.files import same_file

    for name in ("input", "output"):
        path = getattr(arguments, name)
        if not path:
            raise UserError(f"{name}: empty; name a file")
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(f"{name}: {path!r} is not UTF-8; rename the file") from None
    if same_file(arguments.input, arguments.output):
        raise UserError(f"--output: {arguments.output} is the input; name another file")
    asked = Asked(*_opened(arguments), _cache())
    if arguments.cluster is None:
        answer_tables(asked)
        return
    try:
        from bert_qa.cluster import answer_on_cluster
    except ModuleNotFoundError as error:
        raise UserError(
            f"--cluster: needs {error.name}, which is not installed: pip install 'bert-qa[cluster]'"
        ) from None
    answer_on_cluster(asked, arguments.cluster)


def _ask(arguments: argparse.Namespace) -> None:
    from bert_qa.answering import answer_one

    for name in ("question", "context"):
        if not getattr(arguments, name).strip():
            raise UserError(f"--{name}: empty; give a text")
    question, context = arguments.question.strip(), arguments.context
    folder, windows, decoding, infer = _opened(arguments)
    answer = answer_one(
        folder, windows, decoding, infer, question=question, context=context, cache=_cache()
    )
    print(answer.text)


def _opened(arguments: argparse.Namespace) -> tuple[Path, Windows, Decoding, Infer]:
    """The folder of the model, its own parameters, and the options as parameters."""
    from bert_qa.params import Infer
    from bert_qa.released_parameters import read_released

    if (arguments.provider, arguments.precision) == ("CPUExecutionProvider", "bf16"):
        raise UserError("--precision: found bf16; CPUExecutionProvider computes in fp32 only")
    released = read_released(arguments.model)
    infer = Infer(
        input=getattr(arguments, "input", "none"),
        output=getattr(arguments, "output", "none"),
        provider=arguments.provider,
        precision=arguments.precision,
        on_error=getattr(arguments, "on_error", "fail"),
        escape_formulas=getattr(arguments, "escape_formulas", False),
        sessions=getattr(arguments, "sessions", "auto"),
        max_context_characters=arguments.max_context_characters,
    )
    return arguments.model, released.windows, released.decoding, infer


def _cache() -> Path:
    """Where OpenVINO keeps compiled models for this user's next start."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "bert-qa" / "openvino"


def as_options(message: str) -> str:
    """An error that names keys of params.yaml, with this command's options in their place."""
    from bert_qa.params import Infer

    def option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if name == "input":
            return "INPUT"
        return f"--{name}" if value in (None, "true") else f"--{name} {value}"

    keys = "|".join(Infer.model_fields)
    key = rf"(?:params\.yaml: )?(?<![\w/.-])infer\.({keys})\b(?:=(\w+))?"
    return re.sub(key, option, message).replace(" in params.yaml", "")
