"""List the released versions of the INT8 model, newest first: `make versions`.

python -m release.list_versions              of this checkout
python -m release.list_versions REPOSITORY   of another, or of a URL: `make versions REPO=URL`
"""

import gc
import signal

gc.disable()  # until `run`: a third of the imports' time is the search for cycles
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C: no traceback of imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse

from bert_qa.errors import run
from release.versions import ARTIFACT, read_versions, summary, without_password


def main() -> None:
    parser = argparse.ArgumentParser(description="List the released versions of the INT8 model.")
    parser.add_argument("repository", nargs="?", default=".", help="a checkout or a URL")
    repository = parser.parse_args().repository
    versions = read_versions(repository)
    if versions:
        print(summary(versions))
    else:
        shown = without_password(repository)
        print(f"{shown}: no version of {ARTIFACT}; `git fetch --tags` fetches those of others")


if __name__ == "__main__":
    run(main)
