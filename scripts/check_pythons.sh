#!/usr/bin/env bash
# The tests of what answers, with nothing but what answering needs, on each Python that is here beside the one of .venv:
# `scripts/check_pythons.sh`. Says on which they ran.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(tests/quick/test_{batches,journal,metrics,spans,tables,unfinished,words}.py)
tools=$(grep -oE '^(pytest|hypothesis|pyyaml)==[^ ;]+' requirements.txt)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ran=()
whole=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.11 3.12 3.13; do
  [ "$version" != "$whole" ] || continue
  for python in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
    "$python" -c 'import ensurepip, venv' 2>/dev/null || continue
    "$python" -m venv "$folder/$version"
    # shellcheck disable=SC2086 # words
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check -c requirements-answer.txt . $tools
    "$folder/$version/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}"
    ran+=("$version")
    break
  done
done
echo "answering was tested on Python ${ran[*]:-none}; all tests run on $whole"
