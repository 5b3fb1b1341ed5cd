#!/usr/bin/env bash
# One run of the pipeline on an Azure VM, which deallocates itself when the run ends.
#   vm.sh create     --account NAME [options] [-- dvc exp run ...]    without a command: dvc repro
#   vm.sh log        --account NAME [--container NAME] [--group NAME] [--name NAME]
#   vm.sh delete     [--group NAME] [--name NAME] [--yes]             the VM and all that belongs to it
#   vm.sh delete     --all [--group NAME] [--yes]                     the group, the container with every model too
#   vm.sh cloud-init takes what create takes and prints what the VM would get; needs no az
# Options of create: --container bert-qa, --group bert-qa, --name bert-qa, --location westeurope,
# --size Standard_D16ds_v5, --spot, --max-hours 48, --repository URL and --revision TAG|COMMIT, which are by
# default this clone's.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=cloud/storage.sh
. "$here/storage.sh"

account='' container=bert-qa group=bert-qa name=bert-qa location=westeurope size=Standard_D16ds_v5
spot='' max_hours=48 repository='' revision='' yes='' all=''
command=(dvc repro)

action=${1:-}
case $action in
  create | cloud-init) options='--account --container --group --name --location --size --max-hours --repository --revision --spot --' ;;
  log) options='--account --container --group --name' ;;
  delete) options='--group --name --yes --all' ;;
  -h | --help) usage ;;
  *) fail "usage: vm.sh create|log|delete|cloud-init ...; vm.sh --help lists the options" ;;
esac
shift
parse "vm.sh $action" "$options" "$@"
[ "$action" = delete ] || check_account "$account"
check_container "$container"
check --group "$group" '[A-Za-z0-9_-]{1,80}' "letters, digits, _ and -"
check --name "$name" '[a-z0-9][a-z0-9-]{0,50}[a-z0-9]' "2 to 52 lower-case letters, digits and hyphens"
check --location "$location" '[a-z0-9]+' "a region such as westeurope"
check --size "$size" '[A-Za-z0-9_]+' "a size such as Standard_D16ds_v5"
check --max-hours "$max_hours" '[1-9][0-9]{0,3}' "hours, 1 to 9999"

if [ "$action" = create ] || [ "$action" = cloud-init ]; then
  [ ${#command[@]} -gt 0 ] || fail "--: no command after it"
  case "${command[*]} " in
    'dvc repro '* | 'dvc exp run '*) ;;
    *) fail "--: found '${command[*]}'; expected dvc repro ... or dvc exp run ..." ;;
  esac
  source_here
fi

base64_line() { base64 | tr -d '\n'; }

# cloud_init CLIENT_ID: the user data. Base64 keeps whatever the command holds out of YAML's and systemd's way.
cloud_init() {
  local template settings start
  settings=$(printf '%s\n' "ACCOUNT=$account" "CONTAINER=$container" "NAME=$name" "AZURE_CLIENT_ID=$1" \
    "REPOSITORY=$repository" "REVISION=$revision" | base64_line)
  start=$(
    {
      echo '#!/usr/bin/env bash'
      echo 'while sleep 60; do /opt/bert-qa/host.sh log || true; done &'
      printf 'exec /opt/bert-qa/run.sh'
      printf ' %q' "${command[@]}"
      echo
    } | base64_line
  )
  template=$(<"$here/cloud-init.yaml")
  template=${template//@RUN@/$(base64_line <"$here/run.sh")}
  template=${template//@HOST@/$(base64_line <"$here/host.sh")}
  template=${template//@START@/$start}
  template=${template//@SETTINGS@/$settings}
  printf '%s\n' "${template//@MAX_HOURS@/$max_hours}"
}

create() {
  local user_data tag found vm_id priority=()
  need_az
  ensure_storage "$group" "$location" "$account" "$container" "$name"
  user_data=$(mktemp)
  # shellcheck disable=SC2064 # the name as it is now
  trap "rm -f '$user_data'" EXIT
  cloud_init "$client_id" >"$user_data"
  tag=$({ cat "$user_data" && echo "$size $spot"; } | git hash-object --stdin)

  if found=$(az vm show --resource-group "$group" --name "$name" --query tags.run --output tsv 2>/dev/null); then
    # What a VM runs is fixed at its first boot: another run wants another VM.
    [ "$found" = "$tag" ] ||
      fail "the VM $name is there for another run; delete it (vm.sh delete --group $group --name $name) or give another --name"
    az vm start --resource-group "$group" --name "$name" --output none
  else
    # Evicted, a spot VM is deallocated and keeps its disk; -1 pays up to the price of a normal one.
    [ -z "$spot" ] || priority=(--priority Spot --eviction-policy Deallocate --max-price -1)
    # No port is open; the public address is its way out, which new networks do not have without one.
    # Linux wants a key or a password: the key is yours in ~/.ssh, made if there is none.
    az vm create --resource-group "$group" --name "$name" --location "$location" --size "$size" \
      --image Ubuntu2404 --os-disk-size-gb 128 --os-disk-delete-option Delete --nic-delete-option Delete \
      --public-ip-sku Standard --nsg-rule NONE --admin-username azureuser --generate-ssh-keys \
      --assign-identity "$identity_id" --custom-data "$user_data" --tags "run=$tag" \
      ${priority[@]+"${priority[@]}"} --output none
  fi
  # The identity may do to this VM, and to nothing beside it, what deallocating itself takes: of the built-in
  # roles this is the usual one with Microsoft.Compute/virtualMachines/deallocate/action.
  vm_id=$(az vm show --resource-group "$group" --name "$name" --query id --output tsv)
  give_role "$principal_id" ServicePrincipal "Virtual Machine Contributor" "$vm_id"
  az vm boot-diagnostics enable --resource-group "$group" --name "$name" --output none
  echo "VM $name runs: ${command[*]}"
  echo "log: cloud/vm.sh log --account $account --container $container --group $group --name $name"
}

# The log in the container outlives the VM; the serial console has what came before the run's first minute.
log() {
  local file
  need_az
  echo "$name: $(az vm show --resource-group "$group" --name "$name" --show-details --query powerState --output tsv 2>/dev/null ||
    echo 'no such VM')" >&2
  file=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -f '$file'" EXIT
  if az storage blob download --auth-mode login --account-name "$account" --container-name "$container" \
    --name "logs/$name.log" --file "$file" --overwrite --no-progress --output none 2>/dev/null; then
    cat "$file"
  else
    echo "no log in the container, or no right to read it; the serial console says:" >&2
    az vm boot-diagnostics get-boot-log --resource-group "$group" --name "$name" ||
      fail "no log of $name; it is there some two minutes after the VM's start"
  fi
}

sure() {
  [ -n "$yes" ] && return
  local answer
  read -r -p "$1 Type yes: " answer || true
  [ "$answer" = yes ] || fail "nothing deleted"
}

delete() {
  local principal kind
  need_az
  if [ -n "$all" ]; then
    sure "Deletes the resource group $group with all that is in it: VMs, the storage account and every model pushed to it."
    az group delete --name "$group" --yes
    echo "deleted: resource group $group"
    return
  fi
  sure "Deletes the VM $name of $group with its disk, network and identity; the container and its models stay."
  if az vm show --resource-group "$group" --name "$name" --output none 2>/dev/null; then
    az vm delete --resource-group "$group" --name "$name" --yes # its disk and network card with it
  fi
  # The names that `az vm create` gives; a network group and a network go when no card is in them.
  az network public-ip delete --resource-group "$group" --name "${name}PublicIP"
  az network nsg delete --resource-group "$group" --name "${name}NSG"
  az network vnet delete --resource-group "$group" --name "${name}VNET"
  if principal=$(az identity show --resource-group "$group" --name "$name" --query principalId --output tsv 2>/dev/null); then
    # Before the identity goes: what is given to nobody stays listed for ever.
    for kind in $(az role assignment list --all --assignee-object-id "$principal" --query '[].id' --output tsv); do
      az role assignment delete --ids "$kind"
    done
    az identity delete --resource-group "$group" --name "$name"
  fi
  echo "deleted: VM $name; the container stays (vm.sh delete --all removes that too)"
}

case $action in
  create) create ;;
  log) log ;;
  delete) delete ;;
  cloud-init) cloud_init 00000000-0000-0000-0000-000000000000 ;; # create puts the identity's here
esac
