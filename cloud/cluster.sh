#!/usr/bin/env bash
# A table answered on a Ray cluster of Azure VMs: one command starts it, one answers, one takes it down.
#   cluster.sh up      --account NAME [options]       a head, and no worker until there is work
#   cluster.sh answer  --account NAME [--name NAME] INPUT OUTPUT MODEL    locations abfs://container/path, MODEL a folder here
#   cluster.sh down    --account NAME [options] [--yes]
#   cluster.sh config  takes what up takes and prints what Ray's launcher would read; needs neither az nor Ray
# Options: --container bert-qa, --group bert-qa, --name bert-qa, --location westeurope, --size Standard_D16ds_v5 with
# --processors 16, --workers 10 at most, --repository URL and --revision TAG|COMMIT, which are by default this clone's.
# Needs `pip install 'bert-qa[cluster]'` here, for Ray's launcher.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=cloud/storage.sh
. "$here/storage.sh"

account='' container=bert-qa group=bert-qa name=bert-qa location=westeurope size=Standard_D16ds_v5
processors=16 workers=10 repository='' revision='' yes='' client_id=set-by-cluster.sh
operands=()

action=${1:-}
all='--account --container --group --name --location --size --processors --workers --repository --revision'
case $action in
  up | config) options=$all ;;
  down) options="$all --yes" ;;
  answer) options="$all OPERANDS" ;;
  -h | --help) usage ;;
  *) fail "usage: cluster.sh up|answer|down|config ...; cluster.sh --help lists the options" ;;
esac
shift
parse "cluster.sh $action" "$options" "$@"
check_account "$account"
check_container "$container"
check --group "$group" '[A-Za-z0-9_-]{1,80}' "letters, digits, _ and -"
check --name "$name" '[a-z0-9][a-z0-9-]{0,30}[a-z0-9]' "2 to 32 lower-case letters, digits and hyphens"
check --location "$location" '[a-z0-9]+' "a region such as westeurope"
check --size "$size" '[A-Za-z0-9_]+' "a size such as Standard_D16ds_v5"
check --processors "$processors" '[1-9][0-9]{0,2}' "the processors of that size"
check --workers "$workers" '[1-9][0-9]{0,3}' "workers at most, 1 to 9999"
source_here

config() {
  local text key
  text=$(<"$here/cluster.yaml")
  for key in NAME:name WORKERS:workers LOCATION:location GROUP:group IDENTITY:name SIZE:size PROCESSORS:processors \
    REPOSITORY:repository REVISION:revision ACCOUNT:account CLIENT:client_id; do
    local value=${key#*:}
    text=${text//@${key%%:*}@/${!value}}
  done
  printf '%s\n' "$text"
}

need_ray() {
  command -v ray >/dev/null || fail "ray not found; run: pip install 'bert-qa[cluster]'"
}

with_config() { # COMMAND... FILE: the file last, as Ray's commands want it before their own arguments
  local file
  file=$(mktemp --suffix .yaml)
  # shellcheck disable=SC2064 # the name as it is now
  trap "rm -f '$file'" EXIT
  config >"$file"
  "$@" "$file"
}

up() {
  need_az
  need_ray
  ensure_storage "$group" "$location" "$account" "$container" "$name"
  ray get-auth-token --generate >/dev/null
  with_config ray up --yes
}

down() {
  need_az
  need_ray
  if [ -z "$yes" ]; then with_config ray down; else with_config ray down --yes; fi
}

answer() {
  [ ${#operands[@]} -eq 3 ] || fail "usage: cluster.sh answer --account NAME INPUT OUTPUT MODEL"
  need_az
  need_ray
  local input=${operands[0]} output=${operands[1]} model=${operands[2]} where
  for where in "$input" "$output"; do
    check location "$where" 'abfss?://[A-Za-z0-9@._/*?-]+' "abfs://container/path"
  done
  [ -f "$model/model.onnx" ] || fail "$model: no model.onnx in it; give the folder of a released model"
  client_id=$(az identity show --name "$name" --resource-group "$group" --query clientId --output tsv) ||
    fail "no identity $name in $group; run: cluster.sh up"
  local file
  file=$(mktemp --suffix .yaml)
  # shellcheck disable=SC2064 # the name as it is now
  trap "rm -f '$file'" EXIT
  config >"$file"
  ray rsync-up "$file" "$model/" "model/"
  # Closed or killed, the same command goes on with what is left.
  ray exec "$file" "RAY_AUTH_MODE=token AZURE_STORAGE_ACCOUNT=$account AZURE_CLIENT_ID=$client_id \
venv/bin/bert-qa answer '$input' -o '$output' --model model --cluster \$(hostname -I | cut -d' ' -f1):6379 --sessions $((workers * 4))"
}

"$action"
