#!/usr/bin/env bash
# Azure Storage on this machine, to try push and pull without a subscription: `azurite.sh [PORT]`.
# Installs the pinned Azurite on first use, makes a key of its own (none is in git), prints what to export in
# another terminal, and serves on loopback until Ctrl-C. The blobs stay in .cache/azurite/.
set -euo pipefail
if [[ ${1:-} == -* ]]; then
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit
fi
port=${1:-10000}
here=$(cd "$(dirname "$0")" && pwd)
data=${AZURITE_DATA:-$here/../.cache/azurite}

fail() {
  echo "error: $1" >&2
  exit 1
}

[[ $port =~ ^[0-9]+$ ]] || fail "port: found '$port'; expected a number"
command -v npm >/dev/null || fail "npm not found, which installs Azurite; install Node.js (Debian: apt-get install npm)"
exec 9<"$here/azurite/package.json"
flock 9 # npm removes what another start of this script would be using
(cd "$here/azurite" && [ node_modules/.package-lock.json -nt package-lock.json ]) ||
  npm ci --prefix "$here/azurite" --silent --no-audit --no-fund ||
  fail "npm could not install Azurite; run the same command again"
exec 9<&-
mkdir -p "$data"
[ -s "$data/key" ] || (umask 077 && head -c 64 /dev/urandom | base64 -w 0 >"$data/key")
key=$(cat "$data/key")
echo "In another terminal:"
echo "export AZURE_STORAGE_CONNECTION_STRING='DefaultEndpointsProtocol=http;AccountName=local;AccountKey=$key;BlobEndpoint=http://127.0.0.1:$port/local;'"
AZURITE_ACCOUNTS="local:$key" exec "$here/azurite/node_modules/.bin/azurite-blob" --silent --skipApiVersionCheck \
  --disableTelemetry --blobHost 127.0.0.1 --blobPort "$port" --location "$data"
