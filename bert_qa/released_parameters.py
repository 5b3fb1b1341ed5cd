"""The parameters that a released folder was evaluated with, in a file of its own.

A released model is answered with outside the project, where no params.yaml is.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bert_qa.errors import UserError
from bert_qa.files import write_json
from bert_qa.params import Decoding, Windows

PARAMETERS_FILE = "question_answering.json"


class Released(BaseModel):
    """The sections of params.yaml that decide which answer a model gives."""

    model_config = ConfigDict(frozen=True)

    windows: Windows
    decoding: Decoding


def write_released(folder: Path, released: Released) -> None:
    """Write the parameters into an existing folder."""
    write_json(folder / PARAMETERS_FILE, released.model_dump())


def read_released(folder: Path) -> Released:
    """The parameters of a released folder.

    Raises:
        UserError: the folder has none, or they are spoilt.
    """
    file = folder / PARAMETERS_FILE
    if not (folder / "model.onnx").is_file():
        raise UserError(
            f"{folder}: not a released model, it has no model.onnx; give the folder that"
            " `dvc artifacts get` or `dvc repro package` made"
        )
    if not file.is_file():
        raise UserError(
            f"{folder}: it has no {PARAMETERS_FILE}, which models have since version 0.1.0 of"
            " bert-qa; use the project at that model's own version, or release the model again"
        )
    try:
        return Released.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        (first, *_) = error.errors()
        key = ".".join(map(str, first["loc"])) or "content"
        raise UserError(
            f"{file}: {key}: {first['msg']}; fetch the release again, or use the bert-qa that"
            " it was made with"
        ) from None
