"""Unfinished training, mirrored to the container of the DVC remote: for VMs that can be taken away.

python -m release.mirror_checkpoints watch      every 30 s, and once more when it is told to end
python -m release.mirror_checkpoints restore    fetches the newest checkpoint of every run
python -m release.mirror_checkpoints remove     removes all that lie here, and says their size
A checkpoint is whole with its hashes.json (`bert_qa.training.SEAL`), which is written, and sent,
last.
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import sys
import threading
from pathlib import Path

from azure.storage.blob import ContainerClient

from bert_qa.errors import UserError, run
from bert_qa.files import whole_file, whole_folder
from bert_qa.unfinished import UNFINISHED, remove_run, unfinished_runs
from release.container import one_line
from release.dvc_remote import open_remote, open_repo

PREFIX = "checkpoints/"
INTERVAL = 30.0  # seconds
LAST = "hashes.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="Unfinished training, here and in the container.")
    parser.add_argument("what", choices=["watch", "restore", "remove"])
    what = parser.parse_args().what
    if what == "remove":
        remove()
        return
    with open_repo() as repo:
        client = open_remote(repo)
    if what == "restore":
        with one_line(client, "read from"):
            print(f"{restore(client)} unfinished runs restored")
    else:
        watch(client)


def remove() -> None:
    """Remove the unfinished runs that lie here, but those that are going on."""
    runs = unfinished_runs()
    for folder in runs:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        done = "removed" if remove_run(folder) else "it is going on, and stays"
        print(f"{folder}: {size / 1e6:.1f} MB, {done}")
    if not runs:
        print(f"{UNFINISHED}: no unfinished runs")


def watch(client: ContainerClient) -> None:
    """Mirror until SIGTERM or SIGINT, then once more."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ours: set[str] = set()
    last = False
    while not last:
        last = ended.is_set()
        try:
            with one_line(client, "write to"):
                mirror(client, ours)
        except UserError as error:  # the network may come back before the next checkpoint
            print(f"checkpoints not mirrored: {error}", file=sys.stderr, flush=True)
        if not last:
            ended.wait(INTERVAL)


def mirror(client: ContainerClient, ours: set[str]) -> None:
    """Send what the container lacks, then remove what is gone here.

    Args:
        ours: runs that this process has sent something of, `train/1a2b`; added to. Blobs of others
            are left alone: another machine may be training into the same container.
    """
    there = {blob.name: blob.size for blob in client.list_blobs(name_starts_with=PREFIX)}
    here: set[str] = set()
    for run_folder in unfinished_runs():
        name = run_folder.relative_to(UNFINISHED).as_posix()
        for file in _whole_files(run_folder):
            blob = f"{PREFIX}{name}/{file.relative_to(run_folder).as_posix()}"
            here.add(blob)
            try:
                if there.get(blob) != file.stat().st_size:
                    with file.open("rb") as content:
                        client.upload_blob(blob, content, overwrite=True)
                    ours.add(name)
            except FileNotFoundError:  # the Trainer keeps only the newest
                break
    for blob in there:
        name = "/".join(blob.removeprefix(PREFIX).split("/")[:2])
        if name in ours and blob not in here:
            client.delete_blob(blob)


def _whole_files(run_folder: Path) -> list[Path]:
    """The files to send, in the order to send them."""
    files = sorted(run_folder.glob("*.npz"))
    for state in sorted(run_folder.glob(f"trainer/checkpoint-*/{LAST}")):
        files += sorted(file for file in state.parent.iterdir() if file.name != LAST)
        files.append(state)
    return files


def restore(client: ContainerClient) -> int:
    """Fetch every run that has nothing here, of its checkpoints the newest whole one.

    Returns:
        How many runs there were.
    """
    names = {blob.name.removeprefix(PREFIX) for blob in client.list_blobs(PREFIX)}
    newest: dict[str, Path] = {}
    for path in (Path(name).parent for name in names if name.endswith(f"/{LAST}")):
        run_name = path.parent.parent.as_posix()
        if run_name not in newest or _step(path) > _step(newest[run_name]):
            newest[run_name] = path
    run_names = {"/".join(Path(name).parts[:2]) for name in names}
    lacking = sorted(name for name in run_names if not _whole_files(UNFINISHED / name))
    for run_name in lacking:
        if run_name in newest:
            checkpoint = newest[run_name]
            (UNFINISHED / checkpoint).parent.mkdir(parents=True, exist_ok=True)
            with whole_folder(UNFINISHED / checkpoint) as partial:
                for name in sorted(n for n in names if Path(n).parent == checkpoint):
                    _download(client, name, partial / Path(name).name)
        for name in sorted(n for n in names if Path(n).parent.as_posix() == run_name):
            with whole_file(UNFINISHED / name) as partial:
                _download(client, name, partial)
    return len(lacking)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _download(client: ContainerClient, name: str, file: Path) -> None:
    with file.open("wb") as out:
        client.download_blob(PREFIX + name).readinto(out)


if __name__ == "__main__":
    run(main)
