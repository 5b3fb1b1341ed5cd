#!/usr/bin/env bash
# One run of the pipeline on a machine that knows nothing yet: `run.sh dvc repro`, or `run.sh dvc exp run ...`.
# Clones the revision, takes up what earlier machines left in the container (run cache, checkpoints), runs the
# command and pushes. The VM and Azure ML run this same file: an upload of the code, as Azure ML makes it, has no
# .git, and DVC without git has neither experiments nor revisions.
# Knows nothing of the machine: shutting it down is host.sh's.
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 1
}

: "${REPOSITORY:?}" "${REVISION:?}" "${ACCOUNT:?}" "${CONTAINER:?}"
work=${WORK:-$PWD/work}
push_every=${PUSH_EVERY:-300} # seconds
# Azure ML names the identity of its cluster so; Azure's own libraries look under the other name.
export AZURE_CLIENT_ID=${AZURE_CLIENT_ID:-${DEFAULT_IDENTITY_CLIENT_ID:-}}
[ -n "$AZURE_CLIENT_ID" ] || unset AZURE_CLIENT_ID
# What DVC keeps for the whole machine, and unpickles, is by default in a folder that everybody may write to.
export DVC_SITE_CACHE_DIR=${DVC_SITE_CACHE_DIR:-$work.site}
install -d -m 700 "$DVC_SITE_CACHE_DIR"
[ $# -gt 0 ] || fail "no command: run.sh dvc repro"
for tool in git make; do
  command -v "$tool" >/dev/null || fail "$tool not found; install it"
done

set -m # each background job a process group of its own, so that all of it can be stopped
jobs_started=()
stop() { # ends what still runs, last started first: training before the watch, which then makes its last mirror
  trap '' TERM INT
  local i
  for ((i = ${#jobs_started[@]} - 1; i >= 0; i--)); do
    kill -TERM -- "-${jobs_started[i]}" 2>/dev/null || continue
    wait "${jobs_started[i]}" 2>/dev/null || true
  done
  jobs_started=()
  trap 'echo "stopped by a signal"; exit 143' TERM INT
}
trap stop EXIT
trap 'echo "stopped by a signal"; exit 143' TERM INT

step() { # in the background and waited for, because bash puts off a signal until a command in front ends
  "$@" &
  jobs_started+=($!)
  wait $!
}

echo "run: $REPOSITORY at $REVISION: $*"
if [ ! -d "$work/.git" ]; then
  rm -rf "$work"
  step git clone --quiet --no-checkout -- "$REPOSITORY" "$work" || fail "cannot clone $REPOSITORY"
else # started again on the same disk: the cache and the virtual environment are still there
  step git -C "$work" fetch --quiet --tags origin || fail "cannot fetch $REPOSITORY"
fi
cd "$work"
# A branch can move between two starts of one run: tags and full commits only.
commit=$REVISION
[[ $REVISION =~ ^[0-9a-f]{40}$ ]] || commit=refs/tags/$REVISION
git rev-parse --verify --quiet "$commit^{commit}" >/dev/null || fail "$REVISION: no such tag or full commit in $REPOSITORY"
git checkout --quiet --force --detach "$commit"

# Killed while it noted which files are in use, DVC refuses every later command until that note is gone. Under DVC's own
# locks: whoever holds one is alive, and its note whole.
for note in .dvc/tmp/rwlock .dvc/tmp/exps/rwlock; do
  if [ -e "$note" ] && ! python3 -c 'import json, sys; dict(json.load(open(sys.argv[1])))' "$note" 2>/dev/null; then
    flock --nonblock .dvc/tmp/lock flock --nonblock "$note.lock" rm "$note" || fail "$note is broken and a dvc command runs"
    echo "removed $note, which a kill had left broken"
  fi
done

step make remote ACCOUNT="$ACCOUNT" CONTAINER="$CONTAINER"
export PATH=$work/.venv/bin:$PATH
step dvc pull --run-cache || echo "nothing pulled: the run starts from the beginning"
step python -m release.mirror_checkpoints restore

# Finished stages reach the container while later ones run. From a second clone that shares the cache,
# because DVC gives up a run that finds its clone locked for more than three seconds.
push_while_running() {
  local clone=$work.push
  rm -rf "$clone"
  git clone --quiet --shared "$work" "$clone"
  cp .dvc/config.local "$clone/.dvc/"
  (cd "$clone" && dvc cache dir --quiet --local "$work/.dvc/cache")
  while sleep "$push_every"; do
    cp dvc.lock "$clone/" 2>/dev/null || true
    (cd "$clone" && python -m release.push) || echo "not pushed now; tried again in $push_every s"
  done
}

# Of machines that train together the first stands for all: they hold the same.
first() { [ "${RANK:-0}" -eq 0 ]; }

if first; then
  python -m release.mirror_checkpoints watch &
  jobs_started+=($!)
  push_while_running &
  jobs_started+=($!)
fi

# --pull: the run cache came with the names of what earlier machines made; this fetches those that are wanted.
status=0
step "$@" --pull || status=$?
stop
# After a failure too: the stages before it are done, and another run need not do them again.
if first; then
  step python -m release.push || status=$((status ? status : $?))
fi
[ "$status" -eq 0 ] || fail "the run failed with exit status $status: $*"
echo "done: $*"
