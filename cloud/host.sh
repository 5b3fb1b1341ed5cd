#!/usr/bin/env bash
# What the VM does about itself: `host.sh log` uploads the run's log to the container, `host.sh deallocate`
# uploads it a last time and gives the machine back, which ends its cost. With curl and the token of the VM's
# identity alone, so that it works when nothing else could be installed.
set -euo pipefail

: "${ACCOUNT:?}" "${CONTAINER:?}" "${NAME:?}" "${AZURE_CLIENT_ID:?}"
imds=${IMDS:-http://169.254.169.254}
arm=${ARM:-https://management.azure.com}
blob=${BLOB:-https://$ACCOUNT.blob.core.windows.net}
retry_after=${RETRY_AFTER:-15} # seconds

# Named by its client id: a policy of the subscription may give the VM further identities.
token() {
  curl -sS --fail --noproxy '*' --max-time 20 -H 'Metadata: true' \
    "$imds/metadata/identity/oauth2/token?api-version=2018-02-01&client_id=$AZURE_CLIENT_ID&resource=$1" |
    python3 -c 'import json, sys; print("Authorization: Bearer", json.load(sys.stdin)["access_token"])'
}

# Tokens go through a file descriptor: arguments are for every process to see.
upload_log() {
  local header
  header=$(token https%3A%2F%2Fstorage.azure.com%2F) || return
  journalctl --unit bert-qa --output short-iso --no-pager --quiet |
    curl -sS --fail --max-time 60 -o /dev/null -X PUT -H @<(echo "$header") \
      -H 'x-ms-version: 2021-12-02' -H 'x-ms-blob-type: BlockBlob' -H 'Content-Type: text/plain' \
      --data-binary @- "$blob/$CONTAINER/logs/$NAME.log"
}

deallocate() {
  local header vm
  header=$(token https%3A%2F%2Fmanagement.azure.com%2F) || return
  vm=$(curl -sS --fail --noproxy '*' --max-time 20 -H 'Metadata: true' \
    "$imds/metadata/instance/compute/resourceId?api-version=2021-02-01&format=text") || return
  curl -sS --fail --max-time 60 -o /dev/null -X POST -H @<(echo "$header") -d '' \
    "$arm$vm/deallocate?api-version=2024-07-01"
}

case ${1:-} in
  log) upload_log ;;
  deallocate)
    upload_log || echo "the last lines of the log stay on the VM"
    # A role given a minute ago can be unknown for some more.
    for _ in {1..40}; do
      if deallocate; then
        echo "deallocating"
        exit
      fi
      sleep "$retry_after"
    done
    echo "error: not deallocated, the VM still costs; run: az vm deallocate --name $NAME" >&2
    exit 1
    ;;
  *)
    echo "error: usage: host.sh log|deallocate" >&2
    exit 1
    ;;
esac
