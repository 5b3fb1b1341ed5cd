"""Read cloud/ as Azure's own software reads it, with no subscription: `make azure-check`.

Runs vm.sh and ml.sh with a recording stand-in for az, gives every line recorded to the Azure CLI's
own parser, and loads cloud/ml/*.yml with azure-ai-ml. Executes nothing of Azure: what the lines do
is for a subscription to show.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import os
import stat
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

AZURE = Path(__file__).resolve().parents[1] / "cloud"
VM = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v"

STAND_IN = f"""#!{sys.executable}
import json, os, sys
line = sys.argv[1:]
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps(line) + "\\n")
text = " ".join(line)
if any(text.startswith(missing) for missing in os.environ["MISSING"].split(",") if missing):
    sys.exit(3)
if text.startswith("identity create"):
    print("{VM}", "22222222-2222-2222-2222-222222222222", "33333333-3333-3333-3333-333333333333")
elif "tags.run" in line:
    print(os.environ["TAG"])
elif "--query" in line:
    print("{VM}")
"""

OURS = ["--account", "someaccount"]
SOURCE = ["--repository", "https://example.com/a/b.git", "--revision", "v1.0.0"]
WORKSPACE = ["--workspace", "somewhere"]
NEW = ",".join(
    [
        "group show",
        "storage account show --name someaccount --resource-group bert-qa --output none",
        "vm show --resource-group bert-qa --name bert-qa --query tags",
    ]
)
RUNS: list[tuple[list[str], str]] = [
    (["vm.sh", "create", *OURS, *SOURCE, "--spot"], NEW),
    (["vm.sh", "create", *OURS, *SOURCE], NEW),
    (["vm.sh", "create", *OURS, *SOURCE], ""),  # the same run again: the VM is started
    (["vm.sh", "log", *OURS], ""),
    (["vm.sh", "log", *OURS], "storage blob download"),
    (["vm.sh", "delete", "--yes"], ""),
    (["vm.sh", "delete", "--all", "--yes"], ""),
    (["ml.sh", "compute", *WORKSPACE, *OURS], NEW),
    (["ml.sh", "submit", *WORKSPACE, *OURS, *SOURCE, "epochs=1"], ""),
    (["ml.sh", "stream", *WORKSPACE, "some_job"], ""),
    (["cluster.sh", "up", *OURS, *SOURCE], NEW),
]


def record() -> list[list[str]]:
    """Run the scripts on the stand-in; every distinct az line they gave, in order."""
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        az, log = Path(folder, "az"), Path(folder, "record")
        az.write_text(STAND_IN, encoding="utf-8")
        az.chmod(az.stat().st_mode | stat.S_IXUSR)
        tag = ""
        for (script, *arguments), missing in RUNS:
            log.write_text("", encoding="utf-8")
            path = f"{folder}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(  # noqa: S603
                [AZURE / script, *arguments],
                env={
                    **os.environ,
                    "PATH": path,
                    "RECORD": str(log),
                    "MISSING": missing,
                    "TAG": tag,
                },
                capture_output=True,
                check=False,
            )
            lines += [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            tag = next((i[4:] for line in lines[::-1] for i in line if i.startswith("run=")), "")
    return [line for i, line in enumerate(lines) if line not in lines[:i]]


def parse(line: list[str]) -> str | None:
    """Give one az line to the CLI's parser.

    By private parts of azure-cli 2.91, which has no public way to parse a line without running it.

    Returns:
        What it has against the line; None when it is right.
    """
    cli = import_module("azure.cli.core").get_default_cli()
    invocation: Any = cli.invocation_cls(
        cli_ctx=cli,
        parser_cls=cli.parser_cls,
        commands_loader_cls=cli.commands_loader_cls,
        help_cls=cli.help_cls,
    )
    cli.invocation = invocation
    loader = invocation.commands_loader
    said = StringIO()
    try:
        with redirect_stderr(said):
            loader.load_command_table(line)
            command = invocation._rudimentary_get_command(line)
            if command not in loader.command_table:
                return f"no such command: {' '.join(line[:3])}"
            loader.command_table = {command: loader.command_table[command]}
            loader.command_name = command
            invocation.data["command_string"] = command  # which arguments are loaded goes by it
            loader.load_arguments(command)
            # Who listens to this adds --query and --output.
            cli.raise_event("CommandInvoker.OnPostCommandTableCreate", commands_loader=loader)
            invocation.parser.cli_ctx = cli
            invocation.parser.load_command_table(loader)
            invocation.parser.parse_args(line)
    except SystemExit:
        return said.getvalue().strip() or "refused"
    except Exception as error:  # the CLI's own errors have no common class
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Check the lines and the files; exit with 1 when one is wrong."""
    os.environ["AZURE_CONFIG_DIR"] = tempfile.mkdtemp()  # nobody's account, nobody's extensions
    os.environ["AZURE_CORE_COLLECT_TELEMETRY"] = "no"
    wrong = parsed = 0
    not_parsed = []
    for line in record():
        if line[0] == "ml":
            not_parsed.append(line)
            continue
        problem = parse(line)
        if not problem and not parse([*line, "--no-such-option", "x"]):
            problem = "takes --no-such-option too: this check sees nothing"
        parsed += 1
        if problem:
            wrong += 1
            print(f"az {' '.join(line)}\n  {problem}")
    print(f"{parsed} az lines parsed, {wrong} wrong")
    print(f"{len(not_parsed)} az ml lines not parsed (an extension that is not on PyPI):")
    for line in not_parsed:
        print(f"  az {' '.join(line)}")
    load: Any = import_module("azure.ai.ml")
    for name, loaded in {
        "job.yml": load.load_job(AZURE / "ml/job.yml"),
        "environment.yml": load.load_environment(AZURE / "ml/environment.yml"),
        "compute.yml": load.load_compute(AZURE / "ml/compute.yml"),
        "answer.yml": load.load_job(AZURE / "ml/answer.yml"),
    }.items():
        print(f"cloud/ml/{name}: a {type(loaded).__name__}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
