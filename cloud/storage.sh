# shellcheck shell=bash
# Sourced by vm.sh and ml.sh: what both need in a subscription, which is a resource group, a storage account that
# takes no shared keys, a container, and an identity that may read and write that container and nothing else.

fail() {
  echo "error: $1" >&2
  exit 1
}

# Takes options into variables of their names: `--max-hours 4` into $max_hours, a flag as yes. What follows `--` goes into
# $command, and other words into $operands where OPTIONS has OPERANDS.
parse() { # WHAT OPTIONS ARGUMENTS...
  local what=$1 options=$2 name
  shift 2
  while [ $# -gt 0 ]; do
    [[ $1 != -h && $1 != --help ]] || usage
    if [[ $1 != -* && " $options " == *" OPERANDS "* ]]; then
      operands+=("$1")
      shift
      continue
    fi
    [[ " $options " == *" $1 "* ]] || fail "$what: unknown argument '$1'; it takes ${options% OPERANDS}"
    name=${1#--} name=${name//-/_}
    case $1 in
      --)
        shift
        # shellcheck disable=SC2034 # of the script that sources this
        command=("$@")
        return
        ;;
      --spot | --yes | --all) printf -v "$name" yes ;;
      *)
        [ $# -gt 1 ] || fail "$1: no value"
        printf -v "$name" %s "$2"
        shift
        ;;
    esac
    shift
  done
}

need_az() {
  command -v az >/dev/null || fail "az not found; install the Azure CLI: https://aka.ms/install-azure-cli"
  az account show --output none 2>/dev/null || fail "not logged in to Azure; run: az login"
}

# check OPTION VALUE PATTERN WHAT: a value that reaches a command line, a URL or the VM has passed here.
check() {
  [[ $2 =~ ^($3)$ ]] || fail "$1: found '$2'; expected $4"
}

check_account() {
  [ -n "$1" ] || fail "--account is missing: a storage account name, which is unique in all of Azure"
  check --account "$1" '[a-z0-9]{3,24}' "3 to 24 lower-case letters and digits"
}

check_container() { check --container "$1" '[a-z0-9](-?[a-z0-9]){2,62}' "3 to 63 lower-case letters, digits and single hyphens"; }

# The comment at the top of the script that sources this.
usage() {
  sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[-1]}"
  exit
}

# Sets what is not given of repository and revision: where this clone came from, and its commit.
source_here() {
  local said
  if [ -z "$repository" ] || [ -z "$revision" ]; then
    said=$(git rev-parse --git-dir 2>&1) || case $said in
      *'dubious ownership'*) fail "$PWD: another user's checkout, which git does not read; if you trust it: git config --global --add safe.directory $PWD" ;;
      *) fail "no git repository here; give --repository and --revision" ;;
    esac
  fi
  repository=${repository:-$(git remote get-url origin 2>/dev/null || true)}
  [ -n "$repository" ] || fail "--repository is missing, and this clone has no origin"
  [ -n "$revision" ] || revision=$(revision_here)
  check_source "$repository" "$revision"
}

revision_here() {
  git rev-parse --verify --quiet HEAD >/dev/null || fail "no commit here; give --revision"
  [ -n "$(git branch --remotes --contains HEAD)" ] || fail "HEAD is on no remote branch; push it first, or give --revision"
  git rev-parse HEAD
}

check_source() {
  check --repository "$1" 'https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~-]+)+/?' "an https:// URL without a user or token in it"
  check --revision "$2" '[A-Za-z0-9][A-Za-z0-9._@/-]*' "a tag or a full commit"
}

# give_role PRINCIPAL TYPE ROLE SCOPE: by object id, and more than once, because a new identity takes a while to be
# known everywhere.
give_role() {
  local try
  for try in 1 2 3 4 5 6; do
    az role assignment create --assignee-object-id "$1" --assignee-principal-type "$2" --role "$3" --scope "$4" \
      --output none && return
    echo "role not given yet ($try of 6)" >&2
    sleep "${RETRY_AFTER:-10}"
  done
  fail "could not give the role '$3' on $4; this needs Owner or User Access Administrator there"
}

# ensure_storage GROUP LOCATION ACCOUNT CONTAINER IDENTITY: idempotent. Sets identity_id, client_id, principal_id.
ensure_storage() {
  local identity scope user
  az group show --name "$1" --output none 2>/dev/null || az group create --name "$1" --location "$2" --output none
  az storage account show --name "$3" --resource-group "$1" --output none 2>/dev/null ||
    az storage account create --name "$3" --resource-group "$1" --location "$2" --kind StorageV2 --sku Standard_LRS \
      --min-tls-version TLS1_2 --https-only true --allow-shared-key-access false --allow-blob-public-access false \
      --output none
  # Through the management plane, where who may create the account may create its containers.
  az storage container-rm create --storage-account "$3" --resource-group "$1" --name "$4" --public-access off --output none
  identity=$(az identity create --name "$5" --resource-group "$1" --location "$2" \
    --query "join(' ', [id, clientId, principalId])" --output tsv)
  # shellcheck disable=SC2034 # for who sources this
  read -r identity_id client_id principal_id <<<"$identity"
  scope=$(az storage account show --name "$3" --resource-group "$1" --query id --output tsv)
  scope+=/blobServices/default/containers/$4
  give_role "$principal_id" ServicePrincipal "Storage Blob Data Contributor" "$scope"
  # Owning a subscription gives no right to the data in it; a service principal that calls this is no user.
  if user=$(az ad signed-in-user show --query id --output tsv 2>/dev/null); then
    give_role "$user" User "Storage Blob Data Contributor" "$scope"
  fi
}
