"""Run an experiment of experiments/: a description and the parameters that it changes.

python scripts/experiment.py                 the experiments that there are
python scripts/experiment.py NAME [options]  by `dvc exp run`; several variants from DVC's queue, in
the background, with their metrics in a CSV at the end.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tabulate import tabulate

from bert_qa.errors import UserError, first_sentence, run
from bert_qa.files import whole_file

FOLDER = Path("experiments")
MAX_TRAIN_EXAMPLES = 4000
"""Of the training questions: those that are calibrated and trained with, and not the whole file."""

Value = bool | int | float | str | list[int] | None
Overrides = dict[str, Value]


class Experiment(BaseModel):
    """A file of experiments/.

    Attributes:
        real_data: whether it takes questions and a model of the user's own.
        workflow: whose stages it runs.
        temporary: whether it runs in a copy of the project, which leaves the outputs here alone.
        overrides: keys of params.yaml with their values.
        variants: further overrides, each an experiment of its own.
        results: the CSV that the variants' metrics go to.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    description: str
    real_data: bool = False
    workflow: str = "dvc.yaml"
    temporary: bool = False
    overrides: Overrides
    variants: list[Overrides] = []
    results: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description="Run an experiment of experiments/.")
    parser.add_argument("name", nargs="?", help="without one, lists what there is")
    parser.add_argument("--train", type=Path, help="SQuAD JSON, where an experiment takes it")
    parser.add_argument("--validation", type=Path, help="SQuAD JSON")
    parser.add_argument("--model", type=Path, help="folder of a fine-tuned model")
    parser.add_argument(
        "-S", dest="set", action="append", default=[], metavar="KEY=VALUE", help="as `dvc exp run`"
    )
    arguments = parser.parse_args()
    if arguments.name is None:
        files = sorted(FOLDER.glob("*.yaml"))
        print(tabulate([(file.stem, read_experiment(file).description) for file in files]))
        return
    experiment = read_experiment(FOLDER / f"{arguments.name}.yaml")
    changes = experiment.overrides | _own(experiment, arguments)
    prefix = f"{arguments.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not experiment.variants:
        command = _command(experiment, prefix, changes, arguments.set)
        sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603
    names = {f"{prefix}-{_words(variant)}": variant for variant in experiment.variants}
    for name, variant in names.items():
        command = _command(experiment, name, changes | variant, [*arguments.set, "--queue"])
        subprocess.run(command, check=True)  # noqa: S603
    # In the background: `dvc exp run --run-all` would hold this clone's lock until the end.
    subprocess.run(["dvc", "queue", "start"], check=True)  # noqa: S607
    _wait(len(names))
    if experiment.results is not None:
        _write_results(list(names), f"{prefix}-", Path(experiment.results))


def read_experiment(file: Path) -> Experiment:
    """Read a file of experiments/.

    Raises:
        UserError: there is none, or it is not one.
    """
    try:
        return Experiment.model_validate(YAML(typ="safe").load(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise UserError(f"{file}: no such experiment; there are {known}") from None
    except YAMLError as error:
        raise UserError(f"{file}: not YAML: {first_sentence(error)}") from None
    except ValidationError as error:
        (first, *_) = error.errors()
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {key}: {first['msg']}; fix it") from None


def _own(experiment: Experiment, arguments: argparse.Namespace) -> Overrides:
    """Overrides for the user's own files."""
    files = {
        "dataset.train_file": arguments.train,
        "dataset.validation_file": arguments.validation,
        "model.folder": arguments.model,
    }
    for key, path in files.items():
        if path is not None and not path.exists():
            raise UserError(f"--{key.partition('.')[2].partition('_')[0]}: no such file: {path}")
    given = {key: str(path.resolve()) for key, path in files.items() if path is not None}
    if not experiment.real_data:
        return dict(given)
    if len(given) < len(files):
        raise UserError(f"{arguments.name}: give --train, --validation and --model")
    named: Overrides = {"dataset.name": "files", "model.name": "folder"}
    limit = experiment.overrides.get("dataset.max_train_examples", MAX_TRAIN_EXAMPLES)
    return named | given | {"dataset.max_train_examples": limit}


def _command(
    experiment: Experiment, name: str, changes: Overrides, further: list[str]
) -> list[str]:
    command = ["dvc", "exp", "run", experiment.workflow, "--name", name]
    command += ["--temp"] if experiment.temporary else []
    for key, value in changes.items():
        command += ["-S", f"{key}={json.dumps(value) if not isinstance(value, str) else value}"]
    for each in further:
        command += [each] if each.startswith("--") else ["-S", each]
    return command


def _words(variant: Overrides) -> str:
    """What a variant is called: its first change."""
    key, value = next(iter(variant.items()))
    return f"{key}={json.dumps(value) if not isinstance(value, str) else value}"


def _wait(count: int) -> None:
    """Wait until the queue's workers have ended; say now and then how many are left."""
    while True:
        time.sleep(20)
        command = ["dvc", "queue", "status"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            continue  # busy for a moment
        left = sum(
            line.split()[-1] in {"Queued", "Running"} for line in done.stdout.splitlines() if line
        )
        if left == 0 or "0 active, 0 idle" in done.stdout:
            return
        print(f"{left} of {count} left; `dvc queue stop --kill` ends them", flush=True)


def _write_results(names: list[str], prefix: str, out: Path) -> None:
    """Write the metrics of experiments into a CSV, a row each.

    Raises:
        UserError: some have failed; the CSV is written without them.
    """
    command = ["dvc", "exp", "show", "--json", "--hide-failed", "--hide-queued"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    rows = []
    for baseline in json.loads(done.stdout):
        for each in baseline["experiments"] or []:
            name = str(each["name"])
            if name in names:
                metrics = each["revs"][0]["data"]["metrics"]["metrics/evaluation.json"]["data"]
                row = {"experiment": name.removeprefix(prefix)}
                for model in ("ptq", "qat"):
                    figures = {k: v for k, v in metrics[model].items() if "size" not in k}
                    row |= {f"{model}.{key}": value for key, value in figures.items()}
                rows.append((names.index(name), row))
    table = pd.DataFrame([row for _, row in sorted(rows, key=lambda each: each[0])])
    with whole_file(out) as partial:
        table.to_csv(partial, index=False)
    print(f"{out}: {len(rows)} experiments")
    if len(rows) < len(names):
        raise UserError(f"{len(names) - len(rows)} experiments failed; `dvc queue logs` says why")


if __name__ == "__main__":
    run(main)
