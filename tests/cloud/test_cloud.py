"""cloud/: the scripts run for real on a small repository, with loopback servers for Azure's.

run.sh and host.sh run as the VM's service runs them, one after the other. What Azure's own software
has to say of the az lines and of cloud/ml/ is `make azure-check`.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

AZURE = ROOT / "cloud"
SOURCE = ["--account", "someaccount", "--repository", "https://example.com/a/b.git"]
VM = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v"
HELP = ("--help", "-h")
GIT = {
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.invalid",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.invalid",
}

# A project of which every part writes down that it ran.
FAKE_MAKEFILE = """
remote:
	@mkdir -p .venv/bin .dvc
	@cp tools/python tools/dvc .venv/bin/
	@touch .dvc/config.local dvc.lock
	@echo "make remote $(ACCOUNT) $(CONTAINER)" >> $(TRACE)
"""
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$TRACE"
if [ "${3:-}" = watch ]; then
  trap 'echo "watch ended" >> "$TRACE"; exit 0' TERM
  while :; do sleep 0.05; done
fi
"""
FAKE_DVC = """#!/usr/bin/env bash
printf 'dvc' >> "$TRACE"; printf ' [%s]' "$@" >> "$TRACE"; echo >> "$TRACE"
case $1 in
  pull)
    echo "site cache $DVC_SITE_CACHE_DIR" >> "$TRACE"
    exit 1
    ;;
  repro) sleep "$SLEEP"; exit "$STATUS" ;;
esac
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **GIT},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", "start")
    return git(folder, "rev-parse", "HEAD")


@dataclass
class Azure:
    """Metadata service, Resource Manager and Blob storage in one; refuses once to deallocate."""

    url: str = ""
    refuse: int = 1
    requests: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    def paths(self, method: str) -> list[str]:
        return [path.partition("?")[0] for verb, path, _, _ in self.requests if verb == method]


@pytest.fixture
def azure() -> Iterator[Azure]:
    state = Azure()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = (self.command, self.path, self.headers.get("Authorization", ""), body)
            state.requests.append(known)
            status, text = 202, ""
            if "/metadata/" in self.path:
                status = 200 if self.headers.get("Metadata") == "true" else 400
                text = VM if "/instance/" in self.path else '{"access_token": "secret"}'
            elif "/deallocate" in self.path and state.refuse:
                state.refuse -= 1
                status = 403
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_POST = answer  # noqa: N815 # http.server's names

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    for run in state.runs:  # what a failed test left
        run.terminate()
        run.wait(timeout=60)
    server.shutdown()


class Machine:
    """A VM's service: run.sh, and when that has ended, however, host.sh."""

    def __init__(self, folder: Path, azure: Azure, repository: Path, revision: str) -> None:
        self.azure = azure
        self.trace = folder / "trace"
        self.trace.write_text("")
        tools = folder / "machine"
        tools.mkdir()
        (tools / "journalctl").write_text(f"#!/bin/sh\ncat '{self.trace}'\n")
        (tools / "journalctl").chmod(0o755)
        self.env = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "REPOSITORY": str(repository),
            "REVISION": revision,
            "ACCOUNT": "someaccount",
            "CONTAINER": "models",
            "NAME": "v",
            "AZURE_CLIENT_ID": "id",
            "WORK": str(folder / "work"),
            "TRACE": str(self.trace),
            "SLEEP": "0",
            "STATUS": "0",
            "IMDS": azure.url,
            "ARM": azure.url,
            "BLOB": azure.url,
            "RETRY_AFTER": "0",
        }

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        run = subprocess.Popen(
            ["bash", str(AZURE / "run.sh"), *command],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.azure.runs.append(run)
        return run

    def end(self, run: subprocess.Popen[str]) -> str:
        said = run.communicate(timeout=60)[0]
        subprocess.run(["bash", str(AZURE / "host.sh"), "deallocate"], env=self.env, check=True)
        return said

    def lines(self) -> list[str]:
        return self.trace.read_text().splitlines()

    def wait_for(self, line: str) -> None:
        deadline = time.monotonic() + 30
        while line not in self.lines():
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.05)


@pytest.fixture
def machine(tmp_path: Path, azure: Azure) -> Machine:
    repository = tmp_path / "repository"
    (repository / "tools").mkdir(parents=True)
    (repository / "Makefile").write_text(FAKE_MAKEFILE)
    for name, text in (("python", FAKE_PYTHON), ("dvc", FAKE_DVC)):
        (repository / "tools" / name).write_text(text)
        (repository / "tools" / name).chmod(0o755)
    revision = commit(repository)
    git(repository, "commit", "-q", "--allow-empty", "-m", "later")
    return Machine(tmp_path, azure, repository, revision)


def test_a_run_takes_up_runs_pushes_and_deallocates(machine: Machine, azure: Azure) -> None:
    run = machine.start("dvc", "repro", SLEEP="1")
    said = machine.end(run)
    assert run.returncode == 0, said
    lines = [
        line
        for line in machine.lines()
        if "[cache]" not in line and not line.startswith("site cache")
    ]
    assert lines[:3] == [
        "make remote someaccount models",
        "dvc [pull] [--run-cache]",  # fails in this project, as on an empty remote
        "-m release.mirror_checkpoints restore",
    ]
    assert set(lines[3:5]) == {"-m release.mirror_checkpoints watch", "dvc [repro] [--pull]"}
    assert lines[5:] == ["watch ended", "-m release.push"]
    revision = machine.env["REVISION"]
    assert git(Path(machine.env["WORK"]), "rev-parse", "HEAD") == revision
    # Refused once, as while the role is not known everywhere, then taken.
    assert azure.paths("POST") == [f"{VM}/deallocate"] * 2
    assert azure.paths("PUT") == ["/models/logs/v.log"]
    put = next(request for request in azure.requests if request[0] == "PUT")
    assert put[2] == "Bearer secret"
    assert put[3].decode() == machine.trace.read_text()


def test_a_failing_run_pushes_what_is_done_and_deallocates(machine: Machine, azure: Azure) -> None:
    run = machine.start("dvc", "repro", STATUS="3")
    said = machine.end(run)
    assert run.returncode == 1
    assert "error: the run failed with exit status 3: dvc repro" in said
    assert machine.lines()[-2:] == ["watch ended", "-m release.push"]
    assert f"{VM}/deallocate" in azure.paths("POST")


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT taken as a service takes it: tests started in the background inherit that it is
    ignored, and no shell can trap what it was started to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_mirrors_its_checkpoints_and_deallocates(
    machine: Machine, azure: Azure, number: signal.Signals
) -> None:
    run = machine.start("dvc", "repro", SLEEP="600")
    machine.wait_for("dvc [repro] [--pull]")
    machine.wait_for("-m release.mirror_checkpoints watch")
    began = time.monotonic()
    run.send_signal(number)
    machine.end(run)
    assert time.monotonic() - began < 10
    assert run.returncode == 143
    assert machine.lines()[-1] == "watch ended"
    assert f"{VM}/deallocate" in azure.paths("POST")


@pytest.mark.parametrize("broken", ["", '{"read": {"/a": [', "[1]"])
def test_what_a_kill_left_broken_of_dvc_s_notes_is_removed(machine: Machine, broken: str) -> None:
    machine.end(machine.start("dvc", "repro"))
    notes = [Path(machine.env["WORK"], ".dvc/tmp", name) for name in ("rwlock", "exps/rwlock")]
    for note in notes:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(broken)
    run = machine.start("dvc", "repro")
    said = machine.end(run)
    assert run.returncode == 0, said
    assert "removed .dvc/tmp/rwlock, which a kill had left broken" in said
    assert not any(note.exists() for note in notes)

    for note in notes:
        note.write_text('{"read": {}}')
    assert "removed" not in machine.end(machine.start("dvc", "repro"))
    assert all(note.exists() for note in notes)


def test_dvc_s_notes_are_left_while_a_dvc_command_runs(machine: Machine) -> None:
    machine.end(machine.start("dvc", "repro"))
    tmp = Path(machine.env["WORK"], ".dvc/tmp")
    tmp.mkdir()
    (tmp / "rwlock").write_text("")
    with (tmp / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run = machine.start("dvc", "repro")
        said = machine.end(run)
    assert run.returncode == 1
    assert "error: .dvc/tmp/rwlock is broken and a dvc command runs" in said
    assert (tmp / "rwlock").exists()


def test_what_dvc_unpickles_is_where_nobody_else_can_write(machine: Machine) -> None:
    machine.end(machine.start("dvc", "repro"))
    folder = Path(machine.env["WORK"] + ".site")
    assert f"site cache {folder}" in machine.lines()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_run_started_again_on_its_disk_goes_on_there(machine: Machine) -> None:
    machine.end(machine.start("dvc", "repro"))
    kept = Path(machine.env["WORK"]) / "models.bin"
    kept.write_text("cache")
    machine.end(machine.start("dvc", "exp", "run", "-S", "a='b c' $d"))
    assert kept.exists()
    assert "dvc [exp] [run] [-S] [a='b c' $d] [--pull]" in machine.lines()


@pytest.mark.parametrize("revision", ["main", "master", "v9", "0" * 40])
def test_a_branch_and_a_revision_that_is_not_there_are_refused(
    machine: Machine, revision: str
) -> None:
    run = machine.start("dvc", "repro", REVISION=revision)
    said = machine.end(run)
    assert run.returncode == 1
    assert f"error: {revision}: no such tag or full commit in" in said
    assert machine.lines() == []


def test_finished_stages_survive_the_machine(tmp_path: Path, azure: Azure) -> None:
    """With DVC itself: killed in its second stage, the run does not do the first one again."""
    dvc = shutil.which("dvc", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if dvc is None:
        pytest.skip("dvc is not installed beside this Python")
    repository, remote = tmp_path / "repository", tmp_path / "remote"
    (repository / "release").mkdir(parents=True)
    (repository / "release/push.py").write_text(
        "import subprocess, sys\n"
        f"sys.exit(subprocess.call([{dvc!r}, 'push', '--run-cache', '-q']))\n"
    )
    (repository / "release/mirror_checkpoints.py").write_text(
        "import sys, time\ntime.sleep(600 if sys.argv[1] == 'watch' else 0)\n"
    )
    (repository / "Makefile").write_text(
        "remote:\n\tmkdir -p .venv/bin\n"
        f"\tln -sf {sys.executable} .venv/bin/python\n\tln -sf {dvc} .venv/bin/dvc\n"
        f"\tdvc remote add -f --local -d azure {remote}\n"
    )
    (repository / "dvc.yaml").write_text(
        "stages:\n"
        "  first:\n    cmd: echo first >> $TRACE && cp Makefile first.txt\n"
        "    deps: [Makefile]\n    outs: [first.txt]\n"
        "  second:\n    cmd: echo second >> $TRACE && sleep $SLEEP && echo 2 > second.txt\n"
        "    deps: [first.txt]\n    outs: [second.txt]\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    subprocess.run([dvc, "init", "-q"], cwd=repository, check=True)
    machine = Machine(tmp_path, azure, repository, commit(repository))
    machine.env["PATH"] = f"{Path(dvc).parent}{os.pathsep}{machine.env['PATH']}"
    run = machine.start("dvc", "repro", SLEEP="600", PUSH_EVERY="1")
    machine.wait_for("second")
    deadline = time.monotonic() + 60
    while not list(remote.glob("runs/*/*/*")) or not list(remote.glob("files/md5/*/*")):
        assert time.monotonic() < deadline, "nothing was pushed while the second stage ran"
        time.sleep(0.2)
    run.terminate()
    assert "stopped by a signal" in machine.end(run)
    shutil.rmtree(machine.env["WORK"])  # the next VM has another disk
    run = machine.start("dvc", "repro")
    said = machine.end(run)
    assert run.returncode == 0, said
    assert machine.lines() == ["first", "second", "second"]


def vm(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(AZURE / arguments[0]), *arguments[1:]],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def az(tmp_path: Path) -> tuple[str, Path]:
    """A PATH with an az that only writes down its calls, and where it does."""
    record = tmp_path / "az.record"
    (tmp_path / "az").write_text(f'#!/bin/sh\necho "$*" >> "{record}"\nexit 1\n')
    (tmp_path / "az").chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}", record


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["vm.sh"], "usage: vm.sh create|log|delete|cloud-init"),
        (["vm.sh", "create"], "--account is missing"),
        (["vm.sh", "create", "--account"], "--account: no value"),
        (["vm.sh", "create", "--account", "My-Account"], "--account: found 'My-Account'"),
        (["vm.sh", "create", "--account", "ab"], "--account: found 'ab'; expected 3 to 24"),
        (["vm.sh", "create", "--acount", "abc"], "vm.sh create: unknown argument '--acount'"),
        (["vm.sh", "create", *SOURCE, "--container", "a--b"], "--container: found 'a--b'"),
        (["vm.sh", "create", *SOURCE, "--max-hours", "0"], "--max-hours: found '0'"),
        (["vm.sh", "create", *SOURCE, "--revision", "$(id)"], "--revision: found '$(id)'"),
        (["vm.sh", "create", *SOURCE, "--revision", "-x"], "--revision: found '-x'"),
        (
            [
                "vm.sh",
                "create",
                *SOURCE,
                "--revision",
                "v1",
                "--repository",
                "https://me:key@example.com/a",
            ],
            "--repository: found",
        ),
        (["vm.sh", "create", *SOURCE, "--revision", "v1", "--", "rm", "-rf"], "--: found 'rm -rf'"),
        (["vm.sh", "delete", "--spot"], "vm.sh delete: unknown argument '--spot'"),
        (["ml.sh"], "usage: ml.sh compute|submit|stream"),
        (["ml.sh", "submit", *SOURCE], "--workspace is missing"),
        (
            ["ml.sh", "submit", "--workspace", "abc", *SOURCE, "--revision", "v1", "epoch=1"],
            "'epoch=1': expected INPUT=VALUE with an input of cloud/ml/job.yml: repository",
        ),
        (
            ["ml.sh", "submit", "--workspace", "abc", *SOURCE, "--revision", "v1", "epochs=1;id"],
            "epochs: found '1;id'",
        ),
        (["cluster.sh"], "usage: cluster.sh up|answer|down|config"),
        (["cluster.sh", "up", "--account", "a;b"], "--account: found 'a;b'"),
        (["cluster.sh", "up", *SOURCE, "--workers", "0"], "--workers: found '0'"),
        (["cluster.sh", "answer", *SOURCE, "--revision", "v1", "a"], "usage: cluster.sh answer"),
    ],
)
def test_a_wrong_argument_is_one_line_and_calls_nothing(
    az: tuple[str, Path], arguments: list[str], says: str
) -> None:
    done = vm(*arguments, PATH=az[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1
    assert not az[1].exists()


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        *(
            (script, [flag])
            for script in ("vm.sh", "ml.sh", "cluster.sh", "azurite.sh")
            for flag in HELP
        ),
        *(("vm.sh", ["create", flag]) for flag in HELP),
        *(("ml.sh", ["submit", "--workspace", "abc", flag]) for flag in HELP),
    ],
)
def test_help_is_help(az: tuple[str, Path], script: str, arguments: list[str]) -> None:
    done = vm(script, *arguments, PATH=az[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert script in done.stdout
    assert not done.stdout.startswith("#")
    assert not az[1].exists()


def test_a_checkout_of_somebody_else_is_told_git_s_remedy(
    az: tuple[str, Path], tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    commit_of = ["vm.sh", "create", "--account", "someaccount"]
    git(checkout, "init", "-q")
    os.chown(checkout, 65534, 65534)
    for command in (commit_of, ["ml.sh", "submit", "--workspace", "abc", *commit_of[2:]]):
        done = subprocess.run(
            ["bash", str(AZURE / command[0]), *command[1:]],
            cwd=checkout,
            env={**os.environ, "PATH": az[0], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr == (
            f"error: {checkout}: another user's checkout, which git does not read; if you trust"
            f" it: git config --global --add safe.directory {checkout}\n"
        )


def test_no_login_and_no_az_are_one_line(az: tuple[str, Path], tmp_path: Path) -> None:
    done = vm("vm.sh", "delete", PATH=az[0])
    assert done.stderr == "error: not logged in to Azure; run: az login\n"
    assert az[1].read_text() == "account show --output none\n"
    bare = tmp_path / "bare"
    bare.mkdir()
    for tool in ("bash", "dirname"):
        (bare / tool).symlink_to(shutil.which(tool) or "/bin/false")
    done = vm("vm.sh", "delete", PATH=str(bare))
    assert done.stderr.startswith("error: az not found; install the Azure CLI")


def cloud_init(*arguments: str) -> str:
    done = vm("vm.sh", "cloud-init", *SOURCE, "--revision", "v1", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_reaches_the_vm_as_it_was_given(tmp_path: Path) -> None:
    command = ["dvc", "exp", "run", "-S", "a='b c' \"d\" $e `f` \\ %g @RUN@", "-S", "x=é & y"]
    document = yaml.safe_load(cloud_init("--", *command))
    files = {file["path"]: file for file in document["write_files"]}
    for name in ("run.sh", "host.sh"):
        content = base64.b64decode(files[f"/opt/bert-qa/{name}"]["content"])
        assert content == (AZURE / name).read_bytes()
    start = base64.b64decode(files["/opt/bert-qa/start.sh"]["content"]).decode()
    script = tmp_path / "start.sh"
    show = tmp_path / "show.sh"
    show.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    show.chmod(0o755)
    last = start.splitlines()[-1].replace("/opt/bert-qa/run.sh", str(show))
    script.write_text(last)
    assert subprocess.check_output(["bash", str(script)], text=True).splitlines() == command
    settings = base64.b64decode(files["/opt/bert-qa/settings"]["content"]).decode().splitlines()
    assert "REVISION=v1" in settings
    assert "ACCOUNT=someaccount" in settings


def test_cloud_init_takes_the_file(tmp_path: Path) -> None:
    tool = shutil.which("cloud-init")
    if tool is None:
        pytest.skip("cloud-init is not installed (Debian: apt-get install cloud-init)")
    file = tmp_path / "user-data"
    file.write_text(cloud_init())
    done = subprocess.run(
        [tool, "schema", "--config-file", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    files = yaml.safe_load(cloud_init("--max-hours", "7"))["write_files"]
    unit = next(file["content"] for file in files if file["path"].endswith(".service"))
    assert "RuntimeMaxSec=7h" in unit
    file = tmp_path / "bert-qa.service"
    # The VM's own files, which are not on this machine.
    for name in ("/opt/bert-qa/start.sh", "/opt/bert-qa/host.sh"):
        unit = unit.replace(name, "/bin/true")
    file.write_text(unit)
    done = subprocess.run(
        [tool, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "bert-qa" in line]
    assert ours == []


def test_shellcheck_has_nothing_against_any_script() -> None:
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed (Debian: apt-get install shellcheck)")
    scripts = sorted(path for path in ROOT.glob("*/*.sh") if not path.parts[-2].startswith("."))
    assert len(scripts) >= 5
    done = subprocess.run(
        [tool, "--external-sources", *map(str, scripts), str(ROOT / ".ci/run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout + done.stderr == ""


def test_ray_s_launcher_takes_the_cluster() -> None:
    ray = pytest.importorskip("ray", reason="no Ray: pip install 'bert-qa[cluster]'")
    import jsonschema

    done = vm("cluster.sh", "config", *SOURCE, "--revision", "v1", "--workers", "3")
    assert done.returncode == 0, done.stderr
    assert re.findall("@[A-Z]+@", done.stdout) == []
    config = yaml.safe_load(done.stdout)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"max_workers": "3"}, schema)
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    assert worker["node_config"]["azure_arm_parameters"]["priority"] == "Spot"
    assert head["resources"]["CPU"] == 0
    assert config["max_workers"] == 3
    assert worker["min_workers"] == 1


def test_azure_ml_s_parallel_job_answers_files(
    tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry script as Azure ML calls it, but for the installation."""
    from importlib.util import module_from_spec, spec_from_file_location

    from bert_qa.params import Decoding, Windows
    from bert_qa.released_parameters import Released, write_released

    model = tmp_path / "model"
    shutil.copytree(tiny_onnx, model)
    windows = Windows(max_length=96, doc_stride=16, max_question_length=32)
    decoding = Decoding(
        max_answer_length=15, version_2_with_negative=False, null_score_diff_threshold=0.0
    )
    write_released(model, Released(windows=windows, decoding=decoding))
    for name, rows in (("a", "Ada was here,Who?\n"), ("b", ",Who?\n")):
        (tmp_path / f"{name}.csv").write_text(f"Context,Question\n{rows}")
    spec = spec_from_file_location("answer_files", AZURE / "ml/answer_files.py")
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    ran = script._run
    bin_folder = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", bin_folder)
    monkeypatch.setattr(script, "_run", lambda *command: None)  # pip
    given = {"--model": model, "--tables": tmp_path, "--answers": tmp_path / "out"}
    words = [word for pair in given.items() for word in map(str, pair)]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--logging_level", "INFO"])
    script.init()
    monkeypatch.setattr(script, "_run", ran)
    assert script.run([str(tmp_path / "a.csv")]) == [str(tmp_path / "a.csv")]
    assert (tmp_path / "out/a.csv").read_text().startswith('"Context","Question","Answer"')
    with pytest.raises(RuntimeError, match=r"error: .*row 1: Context is empty"):
        script.run([str(tmp_path / "b.csv")])


def test_the_job_s_inputs_are_by_default_what_params_yaml_has() -> None:
    """Each `-S key=${{inputs.x}}` of the job; an input that Azure ML takes is never null."""
    job = yaml.safe_load((AZURE / "ml/job.yml").read_text(encoding="utf-8"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    words = job["command"].split()
    given = [words[i + 1] for i, word in enumerate(words) if word == "-S"]
    for setting in given:
        key, _, value = setting.partition("=")
        section, name = key.split(".")
        default = job["inputs"][value.removeprefix("${{inputs.").removesuffix("}}")]
        assert default is not None
        assert (None if default == "null" else default) == params[section][name], key
    used = {name for name in job["inputs"] if f"${{{{inputs.{name}}}}}" in job["command"]}
    assert used == set(job["inputs"])
