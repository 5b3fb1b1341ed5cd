#!/usr/bin/env bash
# Makes a virtual environment with the pinned requirements: `scripts/setup.sh .venv`.
# What is missing on the machine is named in one line; run again, it repairs a broken environment.
set -euo pipefail
if [[ ${1:-} == -* ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit
fi
venv=${1:-.venv}

fail() {
  echo "error: $1" >&2
  exit 1
}

in_range='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
  if "$python" -c "$in_range" 2>/dev/null; then
    found=$python
    break
  fi
done
if [ -z "${found:-}" ]; then
  for python in ${PYTHON:-python3 python}; do
    newer=$("$python" -c 'import sys; v = sys.version_info; print(f"{v[0]}.{v[1]}" if v > (3, 14) else "")' 2>/dev/null) || continue
    [ -z "$newer" ] || fail "$python is Python $newer, for which $(grep -o '^onnxruntime-openvino==[^ ]*' requirements.txt) has no wheel; install Python 3.11, 3.12 or 3.13, or name it: PYTHON=/path/to/python make ..."
  done
fi
[ -n "${found:-}" ] ||
  fail "no Python 3.11, 3.12 or 3.13 found (tried ${PYTHON:-python3, python3.11 to 3.13, python}); install one, or name it: PYTHON=/path/to/python make ..."
"$found" -c 'import venv, ensurepip' 2>/dev/null ||
  fail "$found cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)"
command -v git >/dev/null || fail "git not found; install it (Debian: apt-get install git)"

if ! "$venv/bin/python" -c "$in_range" 2>/dev/null; then
  [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] || fail "$venv is there and no virtual environment; move it away"
  rm -rf "$venv"
  "$found" -m venv "$venv"
fi
# Byte code is compiled here, whatever pip is configured to do: left to the first import, it warns in the middle of a
# stage of what it finds in others' code.
install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --compile "$@" ||
    fail "pip could not install ${!#} (see above); run the same command again"
}
# The pinned pip first: the one that a Python brings may be years old, with faults that are known.
install "$(grep -o '^pip==[^ ]*' requirements.txt)"
install -r requirements.txt
install --no-deps -r requirements-no-deps.txt
# The project itself, as it lies here: `bert-qa` and `import bert_qa`.
install --no-deps --no-build-isolation --editable .
