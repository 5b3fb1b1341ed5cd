"""Run an experiment of experiments/: a description and the parameters that it changes.

python scripts/experiment.py                 the experiments that there are
python scripts/experiment.py NAME [options]  by `dvc exp run`; several variants from DVC's queue, in
the background, with their metrics in a CSV at the end.
"""

from __future__ import annotations

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
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tabulate import tabulate

from bert_qa.errors import UserError, first_sentence, one_line, run
from bert_qa.files import whole_file
from bert_qa.params import PARAMS_FILE
from bert_qa.stage_costs import Cost, noted, table

FOLDER = Path("experiments")
METRICS = "metrics/evaluation.json"
SHOW = ("dvc", "exp", "show", "--json", "--hide-failed", "--hide-queued", "--rev")
SECONDS = 60
"""Between two looks at the queue: its workers take some time to start."""

FAILURES = 5
"""Of `dvc queue status`, one after the other, after which the wait ends."""

Value = bool | int | float | str | list[int] | None
Overrides = dict[str, Value]


class Experiment(BaseModel):
    """A file of experiments/.

    Attributes:
        real_data: whether it takes files of questions, and a model if one is given.
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
    variants: list[Annotated[Overrides, Field(min_length=1)]] = []
    results: str | None = None

    @model_validator(mode="after")
    def _named(self) -> Experiment:
        names = [_words(variant) for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError("two variants begin with the same change, by which they are named")
        return self


def main() -> None:
    parser = argparse.ArgumentParser(description="Run an experiment of experiments/.")
    parser.add_argument("name", nargs="?", help="without one, lists what there is")
    parser.add_argument("--train", type=Path, help="questions, where an experiment takes them")
    parser.add_argument("--validation", type=Path, help="the same, for the scores")
    parser.add_argument("--model", type=Path, help="a fine-tuned one's folder; else the embedded")
    parser.add_argument(
        "-S", dest="set", action="append", default=[], metavar="KEY=VALUE", help="as `dvc exp run`"
    )
    arguments = parser.parse_args()
    if arguments.name is None:
        files = sorted(FOLDER.glob("*.yaml"))
        print(tabulate([(file.stem, read_experiment(file).description) for file in files]))
        return
    experiment = read_experiment(FOLDER / f"{arguments.name}.yaml")
    own = _own(experiment, arguments)
    changes = _committed(PARAMS_FILE) | experiment.overrides | own
    prefix = f"{arguments.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not experiment.variants:
        command = _command(experiment, prefix, changes, arguments.set)
        costs: list[Cost] = []
        with noted(costs) as environment:
            done = subprocess.run(command, check=False, env=environment)  # noqa: S603
        print(table(costs))
        sys.exit(done.returncode)
    revision = _output("git", "rev-parse", "HEAD").strip()
    names = {f"{prefix}-{_words(variant)}": variant for variant in experiment.variants}
    for name, variant in names.items():
        _run(*_command(experiment, name, changes | variant, arguments.set), "--queue")
    # In the background: `dvc exp run --run-all` would hold this clone's lock until the end.
    _run("dvc", "queue", "start")
    _wait(len(names))
    if experiment.results is not None:
        rows = results(json.loads(_output(*SHOW, revision)), list(names))
        _write(rows, f"{prefix}-", len(names), Path(experiment.results))


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
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: cannot be read ({error}); restore it: git checkout {file}"
        ) from None
    except YAMLError as error:
        raise UserError(f"{file}: not YAML: {first_sentence(error)}") from None
    except ValidationError as error:
        (first, *_) = error.errors()
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {key}: {first['msg']}; fix it") from None


def _committed(file: Path) -> Overrides:
    """The parameters of the commit, where the file here has others: experiments leave theirs in it.

    Raises:
        UserError: one of the two cannot be read, or is not in git.
    """
    committed = _flat(_output("git", "show", f"HEAD:./{file}"), f"HEAD:{file}")
    here = _flat(file.read_text(encoding="utf-8"), str(file)) if file.exists() else {}
    left = {key: value for key, value in committed.items() if here.get(key) != value}
    if left:
        print(f"{file}: as it was committed, and not as it is here: {', '.join(left)}")
    return left


def _flat(text: str, source: str) -> Overrides:
    """A file of parameters as `section.key` and value."""
    try:
        sections = YAML(typ="safe").load(text)
        return {f"{name}.{key}": value for name, s in sections.items() for key, value in s.items()}
    except (YAMLError, AttributeError) as error:
        raise UserError(
            f"{source}: not parameters: {first_sentence(error)}; git restore {PARAMS_FILE}"
        ) from None


def _own(experiment: Experiment, arguments: argparse.Namespace) -> Overrides:
    """Overrides for the user's own files."""
    options = {
        "--train": ("dataset.train_file", arguments.train),
        "--validation": ("dataset.validation_file", arguments.validation),
        "--model": ("model.folder", arguments.model),
    }
    given: Overrides = {}
    for option, (key, path) in options.items():
        if path is None:
            continue
        if not path.exists():
            raise UserError(f"{option}: no such file: {path}; give the path of one that is there")
        given[key] = str(path.resolve())
    if not experiment.real_data:
        return given
    if not arguments.train or not arguments.validation:
        raise UserError(
            f"{arguments.name}: give --train and --validation; `make data` fetches both"
        )
    named: Overrides = {"dataset.name": "files"}
    if arguments.model:
        named["model.name"] = "folder"
    return named | given


def _command(
    experiment: Experiment, name: str, changes: Overrides, further: Sequence[str]
) -> list[str]:
    command = ["dvc", "exp", "run", experiment.workflow, "--name", name]
    command += ["--temp"] if experiment.temporary else []
    for key, value in changes.items():
        command += ["-S", f"{key}={_hydra(value)}"]
    for each in further:
        command += ["-S", each]
    return command


def _hydra(value: Value) -> str:
    """A value in Hydra's grammar of overrides, in which DVC reads them.

    A text is quoted: it may hold a comma or a bracket.
    """
    if isinstance(value, str):
        quoted = value.replace("\\", r"\\").replace("'", r"\'")
        return f"'{quoted}'"
    return json.dumps(value)


def _words(variant: Overrides) -> str:
    """What a variant is called: its first change."""
    key, value = next(iter(variant.items()))
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _run(*command: str) -> None:
    """Run a command that must succeed.

    Raises:
        UserError: it failed; it has said why.
    """
    if subprocess.run(command, check=False).returncode:  # noqa: S603
        raise UserError(
            f"{' '.join(command[:3])} failed, see above; `dvc queue status` lists what is queued"
        )


def _output(*command: str) -> str:
    """What a command that must succeed prints; errors as in `_run`."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])} failed, see above")
    return done.stdout


def _wait(count: int) -> None:
    """Wait until the queue's workers have ended; say now and then how many are left."""
    failures = 0
    while failures < FAILURES:
        time.sleep(SECONDS)
        command = ["dvc", "queue", "status"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        failures = failures + 1 if done.returncode else 0
        left = sum(
            line.split()[-1:] in (["Queued"], ["Running"]) for line in done.stdout.splitlines()
        )
        if not done.returncode:
            if left == 0 or "0 active, 0 idle" in done.stdout:
                return
            print(f"{left} of {count} left; `dvc queue stop --kill` ends them", flush=True)
    raise UserError(f"dvc queue status fails: {one_line(done.stderr)}")


def results(shown: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics of experiments, a row each.

    Args:
        shown: what `dvc exp show --json` printed.
        names: of the experiments, in the order of the rows; those without metrics have none.
    """
    found = {}
    for baseline in shown:
        for each in baseline.get("experiments") or []:
            revisions = each.get("revs") or [{}]
            metrics = ((revisions[0].get("data") or {}).get("metrics") or {}).get(METRICS) or {}
            if each.get("name") in names and metrics.get("data"):
                found[each["name"]] = metrics["data"]
    return [
        {"experiment": name}
        | {
            f"{model}.{key}": value
            for model in ("ptq", "qat")
            for key, value in found[name][model].items()
            if "size" not in key
        }
        for name in names
        if name in found
    ]


def _write(rows: list[dict[str, Any]], prefix: str, wanted: int, out: Path) -> None:
    """Write a CSV of all rows.

    Raises:
        UserError: some are missing; the rows are beside the file, which stays as it was.
    """
    complete = len(rows) == wanted
    file = out if complete else out.with_suffix(f".incomplete{out.suffix}")
    table = pd.DataFrame(rows)
    if rows:
        table["experiment"] = table["experiment"].str.removeprefix(prefix)
    with whole_file(file) as partial:
        table.to_csv(partial, index=False)
    print(f"{file}: {len(rows)} of {wanted} experiments")
    if not complete:
        raise UserError(f"{wanted - len(rows)} experiments failed; `dvc queue logs NAME` says why")


if __name__ == "__main__":
    run(main)
