#!/usr/bin/env bash
# The pipeline as an Azure ML job: the cluster, the job, its log. Needs a workspace and `az extension add --name ml`.
#   ml.sh compute --workspace NAME --account NAME [--container NAME] [--group NAME] [--location REGION]
#   ml.sh submit  --workspace NAME --account NAME [--container NAME] [--group NAME] [--repository URL] [--revision TAG|COMMIT]
#                 [INPUT=VALUE ...]     inputs of ml/job.yml, such as epochs=1; prints the job's name
#   ml.sh stream  --workspace NAME [--group NAME] JOB
# --group is the workspace's; --container, --repository and --revision are as for vm.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=cloud/storage.sh
. "$here/storage.sh"

cluster=$(sed -n 's/^name: //p' "$here/ml/compute.yml")
account='' container=bert-qa group=bert-qa location=westeurope workspace='' repository='' revision=''
operands=()

action=${1:-}
case $action in
  compute) options='--workspace --account --container --group --location' ;;
  submit) options='--workspace --account --container --group --repository --revision OPERANDS' ;;
  stream) options='--workspace --group OPERANDS' ;;
  -h | --help) usage ;;
  *) fail "usage: ml.sh compute|submit|stream ...; ml.sh --help lists the options" ;;
esac
shift
parse "ml.sh $action" "$options" "$@"
[ -n "$workspace" ] || fail "--workspace is missing: the name of an Azure ML workspace"
check --workspace "$workspace" '[A-Za-z0-9][A-Za-z0-9_-]{2,32}' "3 to 33 letters, digits, _ and -"
check --group "$group" '[A-Za-z0-9_-]{1,80}' "letters, digits, _ and -"
check --location "$location" '[a-z0-9]+' "a region such as westeurope"
check_container "$container"
[ "$action" = stream ] || check_account "$account"
in_workspace=(--resource-group "$group" --workspace-name "$workspace")

need_ml() {
  need_az
  az extension show --name ml --output none 2>/dev/null || fail "the Azure CLI has no ml extension; run: az extension add --name ml"
}

compute() {
  need_ml
  ensure_storage "$group" "$location" "$account" "$container" "$cluster"
  az ml compute create --file "$here/ml/compute.yml" --location "$location" "${in_workspace[@]}" \
    --identity-type UserAssigned --user-assigned-identities "$identity_id" --output none
  echo "cluster $cluster: no node until a job comes"
}

submit() {
  local pair key known inputs
  source_here
  inputs=("inputs.repository=$repository" "inputs.revision=$revision" "inputs.account=$account" "inputs.container=$container")
  known=$(sed -n '/^inputs:/,/^outputs:/s/^  \([a-z_]*\): .*/\1/p' "$here/ml/job.yml" | tr '\n' ' ')
  for pair in ${operands[@]+"${operands[@]}"}; do
    key=${pair%%=*}
    if [ "$key" = "$pair" ] || ! [[ " $known " == *" $key "* ]]; then
      fail "'$pair': expected INPUT=VALUE with an input of cloud/ml/job.yml: $known"
    fi
    # Azure ML puts an input's text into the job's command line, where a shell reads it.
    check "$key" "${pair#*=}" '[A-Za-z0-9][A-Za-z0-9._/+-]*' "letters, digits and . _ / + -"
    inputs+=("inputs.$pair")
  done
  need_ml
  az ml job create --file "$here/ml/job.yml" "${in_workspace[@]}" --set "${inputs[@]}" --query name --output tsv
}

stream() {
  [ ${#operands[@]} -eq 1 ] || fail "usage: ml.sh stream --workspace NAME JOB; submit prints the job's name"
  need_ml
  az ml job stream --name "${operands[0]}" "${in_workspace[@]}"
}

"$action"
