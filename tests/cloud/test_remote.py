"""The Azure Blob remote, against Azurite: set up, pushed to, pulled from, and what goes wrong.

The pipeline's one reproduced copy is pushed; clones of it without a cache pull.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import AccountSasPermissions

from bert_qa.errors import UserError
from release.container import open_container
from tests.azurite import Azurite, clone
from tests.conftest import ROOT, Project, ran

TIMEOUT = 20
"""Seconds in which the check of a remote has to say what is wrong."""


@pytest.fixture
def cloud(project: Project, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A fresh copy of the project whose commands see Azurite's connection string."""
    project.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
    yield project


def test_the_remote_is_set_up_and_found_again(cloud: Project) -> None:
    setup = ("python", "-m", "release.set_up", "--container", "set-up", "--account", "local")
    assert "container set-up of local made: read, write and delete work" in cloud.check(*setup)
    assert "container set-up of local found" in cloud.check(*setup)
    local = (cloud.folder / ".dvc/config.local").read_text(encoding="utf-8")
    assert "url = azure://set-up/dvc" in local
    assert "account_name = local" in local
    assert "Key" not in local
    assert cloud.git("status", "--porcelain") == ""


def failure(project: Project, *arguments: str) -> str:
    done = project.run("python", "-m", "release.set_up", *arguments, timeout=TIMEOUT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (project.folder / ".dvc/config.local").exists()
    return str(done.stderr)


def test_each_failure_of_the_remote_has_its_line(cloud: Project, azurite: Azurite) -> None:
    env, whole = cloud.env, azurite.connection_string
    name = "AZURE_STORAGE_CONNECTION_STRING"

    assert "wrong account: ACCOUNT is other" in failure(cloud, "--account", "other")
    env[name] = whole.replace("=local;", "=other;").replace("/local", "/other")
    assert "wrong account: other" in failure(cloud)

    write = AccountSasPermissions(read=True, write=True, create=True, delete=True)
    env[name] = azurite.sas(write)
    assert "no such container: missing in " in failure(cloud, "--container", "missing")

    env[name] = whole
    cloud.check("python", "-m", "release.set_up", "--container", "there")
    (cloud.folder / ".dvc/config.local").unlink()
    env[name] = azurite.sas(AccountSasPermissions(read=True))
    assert "no permission to write to container there" in failure(cloud, "--container", "there")
    env[name] = azurite.sas(AccountSasPermissions(write=True, create=True))
    assert "no permission to read from container there" in failure(cloud, "--container", "there")
    env[name] = azurite.sas(AccountSasPermissions(read=True, write=True, create=True))
    assert "no permission to delete from container there" in failure(cloud, "--container", "there")

    env[name] = whole.replace(azurite.part("AccountKey"), "d3Jvbmc=")
    # Azure says AuthenticationFailed and gets a line of its own; Azurite does not tell it apart.
    assert "no permission to write to container bert-qa of local (Auth" in failure(cloud)
    env[name] = "nonsense"
    assert f"{name}: " in failure(cloud)
    for broken in ("not base64", "abc", "ab+ü=="):
        env[name] = whole.replace(azurite.part("AccountKey"), broken)
        assert f"{name}: AccountKey is not base64; copy it whole" in failure(cloud)
    env[name] = "BlobEndpoint=http://models.invalid;SharedAccessSignature=sv=1"
    assert "wrong account: no storage account is named models.invalid" in failure(cloud)

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        env[name] = whole.replace(f":{azurite.port}/", f":{closed.getsockname()[1]}/")
        assert "unreachable: 127.0.0.1:" in failure(cloud)

    del env[name]
    assert "no storage account: " in failure(cloud)
    env["PATH"] = str(Path(env["PATH"].split(os.pathsep)[0]))  # no `az` there
    assert "no credentials: " in failure(cloud, "--account", "nobody")


@pytest.mark.parametrize(
    ("account", "says"),
    [
        ("https://models.blob.core.windows.net", "give the account's name: models"),
        ("https://models.dfs.core.windows.net/bert-qa", "give the account's name: models"),
        ("models.blob.core.windows.net", "give the account's name: models"),
        ("My-Models", "give the account's name, 3 to 24 lower-case letters and digits"),
        ("https://example.com/models", "give the account's name, 3 to 24 lower-case letters"),
    ],
)
def test_what_is_no_account_s_name_is_told_so(account: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        open_container(account, "bert-qa")
    assert str(raised.value).startswith(f"ACCOUNT: found '{account}'; {says}")


TOY = """
stages:
  train:
    cmd: echo model > model && echo '{}' > loss.json && echo 1 >> ran
    deps: [params.yaml]
    outs: [model]
    metrics: [{loss.json: {cache: false}}]
  infer:
    cmd: cp model answers
    deps: [model]
    outs: [answers]
"""


@pytest.fixture
def toy(cloud: Project) -> Project:
    """The project with a pipeline of two stages that take no time, run."""
    for name in ("dvc.yaml", "dvc.lock", "benchmark/dvc.yaml", "benchmark/dvc.lock"):
        (cloud.folder / name).unlink(missing_ok=True)
    (cloud.folder / "dvc.yaml").write_text(TOY, encoding="utf-8")
    cloud.check("dvc", "repro", "-q")
    cloud.commit("a pipeline of two stages")
    return cloud


def test_a_pull_fetches_all_or_one_output(toy: Project, azurite: Azurite, tmp_path: Path) -> None:
    setup = ("python", "-m", "release.set_up", "--container", "pulled")
    toy.check(*setup)
    toy.check("python", "-m", "release.push")
    one = clone(toy, tmp_path / "one", azurite)
    one.check(*setup)
    assert "1 files fetched" in one.check("python", "-m", "release.pull", "answers")
    assert not (one.folder / "model").exists()
    assert "0 files fetched" in one.check("python", "-m", "release.pull")  # the same content
    assert (one.folder / "model").exists()


def test_a_machine_without_dvc_lock_takes_up_stages_with_metrics_that_git_holds(
    toy: Project, azurite: Azurite, tmp_path: Path
) -> None:
    setup = ("python", "-m", "release.set_up", "--container", "taken-up")
    toy.check(*setup)
    toy.check("python", "-m", "release.push")
    other = clone(toy, tmp_path / "other", azurite)
    for name in ("dvc.lock", "loss.json", "ran"):
        (other.folder / name).unlink()
    other.check(*setup)
    other.run("python", "-m", "release.pull")
    other.check("dvc", "repro", "--pull")
    assert not (other.folder / "ran").exists()
    assert (other.folder / "loss.json").read_text() == (toy.folder / "loss.json").read_text()


def test_each_failure_of_a_pull_has_its_line(
    toy: Project, azurite: Azurite, tmp_path: Path
) -> None:
    toy.check("python", "-m", "release.set_up", "--container", "unpushed")
    other = clone(toy, tmp_path / "other", azurite)
    other.check("python", "-m", "release.set_up", "--container", "unpushed")

    def says(*arguments: str) -> str:
        done = other.run("python", "-m", "release.pull", *arguments, timeout=TIMEOUT)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return str(done.stderr)

    assert "not in the remote: answers and 1 more; `dvc repro` makes it" in says()
    assert "not in the remote: model; " in says("model")
    assert "pull: " in says("nothing")
    (other.folder / "answers").write_text("mine", encoding="utf-8")
    assert "`dvc checkout` says which" in says("answers")
    assert (other.folder / "answers").read_text(encoding="utf-8") == "mine"
    (other.folder / "answers").unlink()
    whole = other.env["AZURE_STORAGE_CONNECTION_STRING"]
    other.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.sas(AccountSasPermissions(write=True))
    assert "no permission to read from container unpushed" in says()
    other.check("dvc", "remote", "modify", "--local", "azure", "url", "azure://missing/dvc")
    other.env["AZURE_STORAGE_CONNECTION_STRING"] = whole
    assert "no such container: missing" in says()
    del other.env["AZURE_STORAGE_CONNECTION_STRING"]
    assert "no storage account: run `make remote ACCOUNT=name`" in says()
    other.check("dvc", "remote", "modify", "--local", "azure", "account_name", "nobody")
    other.env["PATH"] = str(Path(other.env["PATH"].split(os.pathsep)[0]))  # no `az` there
    assert "no credentials: " in says()


@pytest.mark.parametrize("script", ["push", "pull", "tag 9.0.0"])
def test_a_clone_that_another_command_holds_is_called_busy(cloud: Project, script: str) -> None:
    """As by `dvc exp run --run-all`, for hours."""
    hold = (
        "import time, zc.lockfile; held = zc.lockfile.LockFile('.dvc/tmp/lock');"
        " print('held', flush=True); time.sleep(60)"
    )
    (cloud.folder / ".dvc/tmp").mkdir(exist_ok=True)
    cloud.check("python", "-m", "release.set_up")
    cloud.set(evaluate__max_f1_drop=100.0)
    cloud.commit("a gate that is open")
    holder = subprocess.Popen(
        ["python", "-c", hold], cwd=cloud.folder, env=cloud.env, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = cloud.run("python", "-m", *f"release.{script}".split(), timeout=TIMEOUT)
    finally:
        holder.kill()
        holder.wait()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: this clone is busy: process {holder.pid} (python -c")
    assert done.stderr.rstrip().endswith("or use another clone (docs/experiments.md)")
    assert done.stderr.count("\n") == 1


def test_a_clone_pulls_the_model_alone_and_answers_alike(
    reproduced: Project, azurite: Azurite, tmp_path: Path
) -> None:
    reproduced.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
    reproduced.check("python", "-m", "release.set_up")
    assert "files pushed" in reproduced.check("python", "-m", "release.push")
    assert "everything is in the remote" in reproduced.check("python", "-m", "release.push")

    consumer = clone(reproduced, tmp_path / "consumer", azurite)
    consumer.check("dvc", "pull", "models/onnx/qat")
    assert not (consumer.folder / "models/base").exists()
    consumer.check("python", "-m", "stages.infer")
    answers = Path("data/output.csv")
    assert (consumer.folder / answers).read_bytes() == (reproduced.folder / answers).read_bytes()


def test_a_second_machine_runs_no_stage(
    reproduced: Project, azurite: Azurite, tmp_path: Path
) -> None:
    reproduced.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
    reproduced.check("python", "-m", "release.set_up")
    reproduced.check("python", "-m", "release.push")
    pulled = clone(reproduced, tmp_path / "pulled", azurite)
    pulled.check("dvc", "pull", "--run-cache")
    assert ran(pulled.check("dvc", "repro")) == []
    assert pulled.git("status", "--porcelain") == ""
    lazy = clone(reproduced, tmp_path / "lazy", azurite)
    assert ran(lazy.check("dvc", "repro", "--pull")) == []
    assert (lazy.folder / "models/onnx/qat/model.onnx").is_file()


def test_a_push_cut_off_says_so_and_completes_later(cloud: Project, tmp_path: Path) -> None:
    server = Azurite(tmp_path / "azurite")
    try:
        cloud.env["AZURE_STORAGE_CONNECTION_STRING"] = server.connection_string
        cloud.check("python", "-m", "release.set_up")
        folder = cloud.folder / "models/big"
        folder.mkdir()
        for i in range(200):
            (folder / str(i)).write_bytes(os.urandom(500_000))
        cloud.check("dvc", "add", "-q", "models/big")
        database = server.data / "__azurite_db_blob__.json"  # saved every few seconds
        while not database.is_file() or '"bert-qa"' not in database.read_text(encoding="utf-8"):
            time.sleep(0.1)
        process = subprocess.Popen(
            ["python", "-m", "release.push"],
            cwd=cloud.folder,
            env=cloud.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        blobs = server.data / "__blobstorage__"
        while sum(file.stat().st_size for file in blobs.glob("*")) < 10_000_000:
            assert process.poll() is None, "pushed before it could be cut off"
            time.sleep(0.02)
        server.kill()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "push cut off" in errors.splitlines()[-1]
        assert "Traceback" not in output + errors
        server.start()
        assert "files pushed" in cloud.check("python", "-m", "release.push")
        shutil.rmtree(cloud.folder / ".dvc/cache")
        shutil.rmtree(folder)
        cloud.check("dvc", "pull", "models/big.dvc")
        assert len(list(folder.iterdir())) == 200
    finally:
        server.kill()


def test_checkpoints_travel_whole_and_others_are_left_alone(
    cloud: Project, azurite: Azurite
) -> None:
    cloud.check("python", "-m", "release.set_up", "--container", "checkpoints")
    run_folder = cloud.folder / "models/checkpoints/train/0123"
    for step, files in {
        20: ["model.safetensors", "hashes.json"],
        40: ["optimizer.pt"],
    }.items():
        folder = run_folder / f"trainer/checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in files:
            (folder / name).write_text(f"{step} {name}", encoding="utf-8")
    (run_folder / "teacher.npz").write_bytes(b"teacher")

    def mirror() -> None:
        watch = subprocess.Popen(
            ["python", "-m", "release.mirror_checkpoints", "watch"], cwd=cloud.folder, env=cloud.env
        )
        time.sleep(5)
        watch.send_signal(signal.SIGTERM)
        assert watch.wait(timeout=60) == 0

    mirror()
    shutil.rmtree(cloud.folder / "models/checkpoints")
    mirror()  # of another machine, which knows nothing of that run
    assert "1 unfinished runs restored" in cloud.check(
        "python", "-m", "release.mirror_checkpoints", "restore"
    )
    files = sorted(str(f.relative_to(run_folder)) for f in run_folder.rglob("*") if f.is_file())
    assert files == [
        "teacher.npz",
        "trainer/checkpoint-20/hashes.json",
        "trainer/checkpoint-20/model.safetensors",
    ]
    assert "0 unfinished runs restored" in cloud.check(
        "python", "-m", "release.mirror_checkpoints", "restore"
    )


def test_git_holds_no_key_and_no_account() -> None:
    log = subprocess.run(
        ["git", "log", "-p", "--all", "--no-color"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode(errors="replace")
    assert log
    secret = re.compile(
        r"AccountKey=[A-Za-z0-9+/]{8}|[?&]sig=[A-Za-z0-9%]{8}|[A-Za-z0-9+/]{86}=="
        r"|SharedAccessSignature=sv=\d{4}-"  # its version is a date
    )
    integrity = re.compile(r'"integrity": "sha512-')  # of npm packages
    found = [
        line for line in log.splitlines() if secret.search(line) and not integrity.search(line)
    ]
    assert found == []
    config = (ROOT / ".dvc/config").read_text(encoding="utf-8")
    assert "account" not in config
