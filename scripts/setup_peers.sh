#!/usr/bin/env bash
# Makes the environment of benchmark/requirements.txt over another: `scripts/setup_peers.sh .venv .venv-peers`.
# What it does not hold itself, Python finds in the first one.
set -euo pipefail
venv=$1 peers=$2
[ ! -e "$peers" ] || [ -e "$peers/pyvenv.cfg" ] ||
  { echo "error: $peers is there and no virtual environment; move it away" >&2; exit 1; }
rm -rf "$peers"
"$venv/bin/python" -m venv --without-pip "$peers"
"$venv/bin/python" -m pip --python "$peers/bin/python" install --disable-pip-version-check --quiet --compile --no-deps \
  -r benchmark/requirements.txt ||
  { echo "error: pip could not install benchmark/requirements.txt (see above); run the same command again" >&2; exit 1; }
site='import sysconfig; print(sysconfig.get_path("purelib"))'
"$venv/bin/python" -c "$site" >"$("$peers/bin/python" -c "$site")/borrowed.pth"
