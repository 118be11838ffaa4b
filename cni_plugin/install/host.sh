#!/bin/sh
# The host's side of `./install.sh node` and `./install.sh kind`: finds the nodes, pushes the payload, calls podwire-node
# on each, and puts every node back when anything fails. What deserves Python runs on the node, inside the payload.
# POSIX sh only: this runs under bash 3.2 (macOS), bash 5, dash and busybox ash.
#
# Reading order: words (options) -> nodes -> steps (how one command is run and shown) -> payload -> plan -> install ->
# undo -> the other actions -> main.
# shellcheck disable=SC2317 # functions are called by name: each targets FUNCTION
set -u
set -f # names of files and nodes are never patterns here
umask 077

repository=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
places=/opt/podwire
handed=/run/podwire-install # what an installation is handed and nobody else may read; a tmpfs, gone with the node
shim_socket=unix:///run/podwire/cri.sock
newline='
'
tab=$(printf '\t')
blanks=" $tab$newline" # what IFS is; it is $newline alone while a list of lines is walked

# --- words ------------------------------------------------------------------------------------------------------

usage() {
    cat <<'TEXT'
usage: ./install.sh node [OPTIONS]          this machine
       ./install.sh kind [--name NAME] [--provider docker|podman|nerdctl|auto] [--nodes A,B] [OPTIONS]

what to do (one of them; without any: install)
  --status              version, health, runtime endpoint and claims of every node
  --uninstall           everything as before the installation; exit code 3 while pods still need the plugin
  --rollback            undo an installation that was interrupted
  --dry-run             say what an installation (or --uninstall) would do; nothing that lasts is changed

what to install
  --cni                 the plugin and the node agent (the default)
  --shim                the shim between kubelet and containerd; implies nothing else
  --all                 both
  --no-agent            the plugin without the agent: routes between nodes are yours
  --pod-cidr CIDR       where no cluster hands out pod CIDRs; a second one of the other family makes pods dual stack.
                        kind: split between the nodes in their order, a /24 (IPv4) or /64 (IPv6) each
  --cluster-cidr CIDR   never masqueraded, beside the nodes' own pod CIDRs; may be repeated
  --mode MODE           auto, host-gw or vxlan: how packets reach the other nodes
  --peers FILE          the nodes and their pod CIDRs, where the agent shall not ask the cluster
  --kubeconfig FILE     node: the agent's, as `podwire-node cluster grant` on a control-plane node prints it
  --payload FILE        the archive to install, for one architecture each; without it build/podwire-*.tar.gz is built
  --no-smoke            no test pods at the end

kind
  --name NAME           the cluster; else KIND_CLUSTER_NAME, else kind
  --provider PROVIDER   else KIND_EXPERIMENTAL_PROVIDER, else the first of docker, podman and nerdctl that has the cluster
  --nodes A,B           these nodes only
  --replace-kindnet     remove kindnet's DaemonSet; its manifest is kept and applied again by --uninstall

uninstall
  --wait SECONDS        wait so long for the pods to go
  --delete-pods         end the pods of the plugin, which their owners start again elsewhere

  --log FILE            where details go; else build/install-DATE.log
  --help                this text

exit code: 0 fine, 1 failed and everything undone, 2 wrong use, 3 unfinished (pods left), 130 or 143 interrupted and undone
TEXT
}

wrong_use() {
    printf 'install.sh %s: %s\n  ./install.sh %s --help\n' "$where" "$1" "$where" >&2
    exit 2
}

value_of() { # COUNT OPTION [VALUE]: that an option has its value
    case ${3:---} in --*) wrong_use "$2 needs a value" ;; esac
    [ "$1" -ge 2 ] || wrong_use "$2 needs a value"
}

kind_only() {
    [ "$where" = kind ] || wrong_use "$1 is an option of ./install.sh kind"
}

read_words() {
    case ${1:-} in
        node | kind) where=$1 ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            where=node
            wrong_use "say node or kind, not ${1:-nothing}"
            ;;
    esac
    shift
    action=install dry_run=no with_cni=no with_shim=no agent=yes smoke=yes replace_kindnet=no
    pod_cidrs='' cluster_cidrs='' peers='' mode='' kubeconfig='' payloads='' log=''
    cluster=${KIND_CLUSTER_NAME:-kind} provider=${KIND_EXPERIMENTAL_PROVIDER:-auto} only=''
    wait_seconds='' delete_pods=no
    while [ $# -gt 0 ]; do
        case $1 in
            --*=*) # --name=value is --name value
                word=$1
                shift
                set -- "${word%%=*}" "${word#*=}" ${1+"$@"}
                ;;
        esac
        case $1 in
            --status | status) choose status ;;
            --uninstall | uninstall) choose uninstall ;;
            --rollback | rollback) choose rollback ;;
            --dry-run) dry_run=yes ;;
            --cni) with_cni=yes ;;
            --shim) with_shim=yes ;;
            --all) with_cni=yes with_shim=yes ;;
            --no-agent) agent=no ;;
            --no-smoke) smoke=no ;;
            --delete-pods) delete_pods=yes ;;
            --replace-kindnet)
                kind_only "$1"
                replace_kindnet=yes
                ;;
            --help | -h)
                usage
                exit 0
                ;;
            --pod-cidr | --cluster-cidr | --mode | --peers | --kubeconfig | --payload | --name | --provider | --nodes | \
                --wait | --log)
                value_of $# "$@"
                take "$1" "$2"
                shift
                ;;
            *) wrong_use "unknown argument $1" ;;
        esac
        shift
    done
    [ "$with_cni$with_shim" != nono ] || with_cni=yes
    [ "$with_cni" = yes ] || agent=no
    [ "$where" = kind ] || cluster=machine
}

choose() {
    [ "$action" = install ] || [ "$action" = "$1" ] || wrong_use "--$action and --$1 exclude each other"
    action=$1
}

take() { # OPTION VALUE
    [ -n "$2" ] || wrong_use "$1 needs a value that is not empty"
    case $2 in *"$newline"*) wrong_use "$1 has a line break in its value" ;; esac
    case $1 in
        --pod-cidr) pod_cidrs=$pod_cidrs$2$newline ;;
        --cluster-cidr) cluster_cidrs=$cluster_cidrs$2$newline ;;
        --mode)
            case $2 in auto | host-gw | vxlan) mode=$2 ;; *) wrong_use "--mode is auto, host-gw or vxlan, not $2" ;; esac
            ;;
        --peers) peers=$2 ;;
        --kubeconfig)
            [ "$where" = node ] || wrong_use "--kubeconfig is an option of ./install.sh node: on kind it is made here"
            kubeconfig=$2
            ;;
        --payload) payloads=$payloads$2$newline ;;
        --name) kind_only "$1" && cluster=$2 ;;
        --provider)
            kind_only "$1"
            provider=$2
            ;;
        --nodes) kind_only "$1" && only=$2 ;;
        --wait)
            case $2 in *[!0-9]*) wrong_use "--wait takes whole seconds, not $2" ;; esac
            wait_seconds=$2
            ;;
        --log) log=$2 ;;
    esac
}

check_words() {
    case $provider in docker | podman | nerdctl | auto) ;; *)
        wrong_use "--provider (or KIND_EXPERIMENTAL_PROVIDER) is docker, podman, nerdctl or auto, not $provider"
        ;;
    esac
    IFS=$newline
    for file in $payloads $peers $kubeconfig; do
        if [ ! -f "$file" ] || [ ! -r "$file" ]; then wrong_use "$file is not a file that can be read"; fi
    done
    IFS=$blanks
    if [ "$where" = node ]; then
        [ "$(id -u)" = 0 ] || fail "this changes the machine and runs as uid $(id -u)" "sudo ./install.sh node ..."
        [ "$(uname -s)" = Linux ] || fail "a node is a Linux machine, and this is $(uname -s)" "./install.sh kind --help"
    fi
}

# --- saying -----------------------------------------------------------------------------------------------------

say() {
    printf '%s\n' "$1"
    note "$1"
}

note() {
    if [ -n "$log" ]; then printf '%s %s\n' "$(date '+%H:%M:%S')" "$1" >>"$log"; fi
}

fail() { # MESSAGE [WHAT TO DO]
    printf 'install.sh %s: %s\n' "$where" "$1" >&2
    note "failed: $1"
    if [ $# -gt 1 ]; then
        printf '  %s\n' "$2" >&2
        note "  $2"
    fi
    if [ -n "$log" ] && [ -s "$log" ]; then printf '  details: %s\n' "$log" >&2; fi
    exit 1
}

open_log() {
    stamp=$(date '+%Y%m%d-%H%M%S')
    if [ -z "$log" ]; then
        log=$repository/build/install-$stamp.log
        if ! { mkdir -p "$repository/build" && : >>"$log"; } 2>/dev/null; then
            log=${TMPDIR:-/tmp}/podwire-install-$stamp.log
        fi
    fi
    : >>"$log" || {
        log=''
        fail "the log $log cannot be written" "--log FILE names another place"
    }
    note "install.sh $where, $action, on $(uname -sm)"
}

now() { # hundredths of a second
    if [ -r /proc/uptime ]; then
        read -r uptime rest </proc/uptime
        printf '%s%s' "${uptime%.*}" "${uptime#*.}"
    else
        printf '%s00' "$(date +%s)"
    fi
}

since() { # what now said: as seconds
    passed=$(($(now) - $1))
    printf '%d.%d s' $((passed / 100)) $((passed % 100 / 10))
}

# --- nodes ------------------------------------------------------------------------------------------------------

# A node is a number from 1 to $count; what is known of it lies in $work/NUMBER.WHAT, so that no name is ever parsed.
fact() { cat "$work/$number.$1" 2>/dev/null; }
keep() { printf '%s\n' "$2" >"$work/$number.$1"; }
known() { [ -s "$work/$number.$1" ]; }
forget() { rm -f "$work/$number.$1"; }

select_node() { # NUMBER
    number=$1
    node=$(fact name)
}

# Calls COMMAND... once for each node: `targets` are those to install, `all` has also the one that only answers for its
# cluster, `reverse` is all from the last. Stops at the first that fails. Not to be nested: sh has no local variables.
each() { # targets | all | reverse, COMMAND...
    scope=$1
    shift
    turn=1
    while [ "$turn" -le "$count" ]; do
        if [ "$scope" = reverse ]; then select_node $((count + 1 - turn)); else select_node "$turn"; fi
        if [ "$scope" != targets ] || ! known aside; then "$@" || return; fi
        turn=$((turn + 1))
    done
}

on_control_plane() { # COMMAND...: with the control-plane node selected, and the former one again after it
    before=$number
    select_node "$control_plane"
    "$@"
    code=$?
    select_node "$before"
    return "$code"
}

find_nodes() {
    count=0 control_plane=''
    if [ "$where" = node ]; then
        add_node "$(uname -n)"
        select_node 1
        if [ -e /etc/kubernetes/admin.conf ] && command -v kubectl >/dev/null; then control_plane=1; fi
        return
    fi
    find_provider
    IFS=$newline
    for name in $names; do
        IFS=$blanks
        facts=$("$provider" inspect --format \
            '{{.State.Status}} {{index .Config.Labels "io.x-k8s.kind.role"}}' "$name" </dev/null 2>>"$work/provider") ||
            fail "$provider inspect $name failed: $(tail -n 1 "$work/provider")" "$provider inspect $name"
        consider "$name" "${facts%% *}" "${facts#* }"
    done
    IFS=$blanks
    [ "$count" -gt 0 ] || fail "cluster $cluster has no node" "kind get nodes --name $cluster"
    check_only
    say "cluster $cluster ($provider): $(listed)"
}

find_provider() { # sets provider and names
    if [ "$provider" != auto ]; then
        command -v "$provider" >/dev/null || fail "$provider is not on PATH" "install it, or name another --provider"
        names=$(containers) || fail "$provider ps failed: $(tail -n 1 "$work/provider")" "$provider ps"
        [ -n "$names" ] || fail "$provider has no kind cluster $cluster" "$provider ps -a; kind get clusters"
        return
    fi
    looked=''
    for provider in docker podman nerdctl; do
        command -v "$provider" >/dev/null || continue
        looked="$looked $provider"
        names=$(containers) || names=''
        [ -z "$names" ] || return 0
    done
    [ -n "$looked" ] || fail "none of docker, podman and nerdctl is on PATH" "install one, and kind"
    fail "no kind cluster $cluster was found with$looked: $(tail -n 1 "$work/provider")" \
        "kind get clusters; --name and --provider choose another one"
}

containers() { # in an order of their own, so that the same options split the same way again
    "$provider" ps -a --filter "label=io.x-k8s.kind.cluster=$cluster" --format '{{.Names}}' \
        </dev/null >"$work/names" 2>>"$work/provider" && LC_ALL=C sort "$work/names"
}

consider() { # NAME STATE ROLE: a container of the cluster
    [ "$3" != external-load-balancer ] || return 0
    wanted=yes
    case ",$only," in ,, | *,"$1",*) ;; *) wanted=no ;; esac
    if [ "$wanted" = no ] && { [ "$3" != control-plane ] || [ -n "$control_plane" ]; }; then return; fi
    if [ "$2" != running ]; then
        [ "$wanted" = yes ] || return 0
        fail "node $1 is not running but $2" "$provider start $1, or leave it out with --nodes"
    fi
    add_node "$1"
    keep role "$3"
    if [ "$3" = control-plane ] && [ -z "$control_plane" ]; then control_plane=$number; fi
    [ "$wanted" = yes ] || keep aside yes
}

add_node() { # NAME
    count=$((count + 1))
    number=$count
    keep name "$1"
}

check_only() { # that every name of --nodes is a node
    IFS=,
    for name in $only; do
        IFS=$blanks
        each targets same_name "$name" && fail "cluster $cluster has no node $name" "its nodes: $(listed)"
    done
    IFS=$blanks
    # A kind-like node without a cluster in it has the role alone.
    if [ -n "$control_plane" ]; then
        select_node "$control_plane"
        reach test -e /etc/kubernetes/admin.conf </dev/null || control_plane=''
    fi
}

same_name() { [ "$node" != "$1" ]; }

listed() {
    number=1
    while [ "$number" -le "$count" ]; do
        if known aside; then printf '%s (only asked)\n' "$(fact name)"; else fact name; fi
        number=$((number + 1))
    done | tr '\n' ' ' | sed 's/ $//'
}

reach() { # COMMAND...: on the selected node, with this stdin. The only line in which kind differs.
    if [ "$where" = kind ]; then set -- "$provider" exec -i "$node" "$@"; fi
    "$@" 3>&- 4<&-
}

# Two runs on one cluster would undo each other. Of a run that was killed the folder stays, and its process is gone.
take_lock() {
    lock=${TMPDIR:-/tmp}/podwire-install-$where-$(printf '%s' "$cluster" | tr -c 'A-Za-z0-9._-' _).lock
    if mkdir "$lock" 2>/dev/null; then
        echo $$ >"$lock/pid"
        return
    fi
    holder=$(cat "$lock/pid" 2>/dev/null)
    case $(ps -p "${holder:-0}" -o args= 2>/dev/null) in
        *host.sh*)
            lock=''
            fail "another installation runs on it (process $holder)" "wait for it, or end it: kill $holder"
            ;;
    esac
    if ! mv "$lock" "$work/stale-lock" || [ "$(cat "$work/stale-lock/pid" 2>/dev/null)" != "$holder" ] ||
        ! mkdir "$lock"; then
        lock=''
        fail "another installation began at the same moment" "wait for it, and call again"
    fi
    echo $$ >"$lock/pid"
}

# --- steps ------------------------------------------------------------------------------------------------------

# One command, shown as `[node] title ... ok (1.2 s)`. Its stdout comes to $work/out, its stderr to the log and, where
# $shown is yes, to the screen as it comes. stdin is the file $input, or `lifeline`: a pipe whose end tells the other
# side that this process died or wants to stop (`docker exec` passes no signal on). It runs in the background, since
# only `wait` lets sh answer a signal at once.
input=/dev/null shown=no child='' secret=no

step() { # TITLE COMMAND...: on the selected node
    title=$1
    shift
    if [ "$where" = kind ]; then
        named_step "$node" "$title" "$provider" exec -i "$node" "$@"
    else
        named_step "$node" "$title" "$@"
    fi
}

named_step() { # WHERE TITLE COMMAND...
    prefix="[$1] $2"
    shift 2
    started=$(now)
    rm -f "$work/code" "$work/process"
    : >"$work/err"
    note "$prefix: $*"
    printf '%s ...' "$prefix"
    (
        # By exec: with a redirection of its own dash keeps a copy of descriptor 3, and the lifeline would never end.
        if [ "$input" = lifeline ]; then exec <&4; else exec <"$input"; fi
        exec 3>&- 4<&-
        follow "$@"
    ) &
    child=$!
    wait "$child"
    child=''
    code=$(cat "$work/code" 2>/dev/null || echo 1)
    if [ "$secret" = no ] && [ -s "$work/out" ]; then sed 's/^/    > /' "$work/out" | redacted >>"$log"; fi
    if [ "$shown" = yes ] && [ -s "$work/err" ]; then printf '%s ...' "$prefix"; fi
    case $code in
        0) verdict=ok ;;
        3) verdict=unfinished ;;
        *) verdict=failed ;;
    esac
    printf ' %s (%s)\n' "$verdict" "$(since "$started")"
    note "$prefix ... $verdict, exit code $code ($(since "$started"))"
    if [ "$code" != 0 ] && [ "$shown" = no ]; then tail -n 15 "$work/err" | sed 's/^/    /' >&2; fi
    input=/dev/null shown=no secret=no
    return "$code"
}

follow() {
    {
        # The process id is needed to end the command alone.
        # shellcheck disable=SC2016
        sh -c 'echo "$$" >"$0"; exec "$@"' "$work/process" "$@" 2>&1 >"$work/out"
        echo "$?" >"$work/code"
    } | while IFS= read -r line; do
        # Only then, since sed would hold lines back.
        case $line in *eyJ* | *oken* | *-data* | *-----BEGIN*) line=$(printf '%s\n' "$line" | redacted) ;; esac
        if [ "$shown" = yes ]; then
            [ -s "$work/err" ] || echo
            printf '    %s\n' "$line"
        fi
        printf '%s\n' "$line" >>"$work/err"
        printf '    %s\n' "$line" >>"$log"
    done
}

redacted() { # what looks like a secret never reaches the log or the screen
    sed -e 's/eyJ[A-Za-z0-9_.-]*/[redacted]/g' -e 's/\([Tt]oken\): *[^ ]*/\1: [redacted]/' \
        -e 's/\(-data\): *[^ ]*/\1: [redacted]/' -e 's/-----BEGIN.*/[redacted]/'
}

stop_step() { # the step that runs, after a signal
    [ -n "$child" ] || return 0
    printf ' interrupted\n'
    exec 3>&-
    patience=200
    while [ ! -s "$work/code" ] && [ "$patience" -gt 0 ]; do
        # A lifeline ends its command by itself; one without is ended here.
        if [ "$input" != lifeline ] || [ "$patience" = 100 ]; then kill "$(cat "$work/process")" 2>/dev/null; fi
        sleep 0.2
        patience=$((patience - 1))
    done
    child='' input=/dev/null shown=no secret=no
}

# --- payload ----------------------------------------------------------------------------------------------------

find_payload() { # for the selected node: sets its arch, payload and identity
    machine=$(reach uname -m </dev/null 2>>"$work/provider") ||
        fail "no command can be run on node $node: $(tail -n 1 "$work/provider")" "$provider exec -i $node uname -m"
    case $machine in
        x86_64 | amd64) arch=amd64 ;;
        aarch64 | arm64) arch=arm64 ;;
        *) fail "node $node is a $machine, and payloads exist for x86_64 and aarch64" ;;
    esac
    archive=$(given_payload) || archive=$(built_payload) || build_payload
    keep arch "$arch"
    keep payload "$archive"
    if [ ! -s "$work/identity.$arch" ]; then
        tar -tzf "$archive" 2>>"$work/tar" | sed -n '1{s,^\./,,;s,/.*,,;p;q;}' >"$work/identity.$arch"
    fi
    identity=$(cat "$work/identity.$arch")
    case $identity in
        *[!A-Za-z0-9._+-]* | '' | .*) fail "$archive is no payload: its first name is '$identity'" \
            "./install.sh build --payload --arch $arch" ;;
    esac
    keep identity "$identity"
}

given_payload() {
    [ -n "$payloads" ] || return 1
    IFS=$newline
    for file in $payloads; do
        case $file in
            *-"$arch".tar.gz) ;;
            *-amd64.tar.gz | *-arm64.tar.gz) continue ;;
        esac
        printf '%s' "$file"
        return 0
    done
    return 1
}

newest_payload() {
    # shellcheck disable=SC2012 # our own names, and find cannot sort by time
    newest=$(set +f && cd "$repository/build" 2>/dev/null && ls -t podwire-*-"$arch".tar.gz 2>/dev/null | head -n 1)
    [ -n "$newest" ] && printf '%s' "$repository/build/$newest"
}

built_payload() { # the newest in build/, unless a source is newer and it can be built again
    newest=$(newest_payload) || return 1
    changed=$(cd "$repository" && find cni_plugin cri_shim conf pyproject.toml -type f ! -name '*.pyc' \
        -newer "$newest" | head -n 1)
    [ -z "$changed" ] || [ "$(uname -s)" != Linux ] || return 1
    printf '%s' "$newest"
}

build_payload() { # sets archive
    [ -z "$payloads" ] || fail "node $node is $arch, and no --payload is for it" "--payload podwire-VERSION-$arch.tar.gz"
    [ "$(uname -s)" = Linux ] || fail "a payload is built on Linux, and this is $(uname -s)" \
        "./install.sh build --payload --arch $arch in a Debian 12 machine or container; then --payload FILE here"
    umask 022
    shown=yes
    named_step host "build the payload for $arch" "$repository/install.sh" build --payload --arch "$arch" ||
        fail "the payload for $arch could not be built" "./install.sh build --payload --arch $arch"
    umask 077
    archive=$(newest_payload) || fail "no build/podwire-*-$arch.tar.gz came of the build" "--payload FILE names another"
}

push() { # the payload into a folder of its own on the selected node, unless it is placed there already
    identity=$(fact identity)
    keep tool "$places/versions/$identity/bin/podwire-node"
    if reach test -x "$(fact tool)" </dev/null 2>/dev/null; then
        say "[$node] $identity is there already"
        return
    fi
    incoming=$places/.incoming-$identity
    keep incoming "$incoming"
    reach test -d "$places" </dev/null 2>/dev/null || keep made yes
    input=$(fact payload)
    # shellcheck disable=SC2016
    step "push $identity ($(fact arch))" sh -c 'umask 022; rm -rf "$1"
        mkdir -p "$1" && tar -x -z --no-same-owner -f - -C "$1"' sh "$incoming" ||
        fail "the payload could not be unpacked on node $node" "df -h $places on the node: it takes about 200 MB"
    keep tool "$incoming/$identity/bin/podwire-node"
}

clean_node() { # what was only needed during the installation
    reach rm -rf "$handed" </dev/null >>"$work/clean" 2>&1
    if known incoming; then
        # shellcheck disable=SC2016
        reach sh -c 'rm -rf "$1"; if [ "$2" = yes ]; then rmdir "${1%/*}" 2>/dev/null; fi; test ! -e "$1"' \
            sh "$(fact incoming)" "$(fact made)" </dev/null >>"$work/clean" 2>&1 ||
            say "[$node] $(fact incoming) could not be removed: rm -r it"
        forget incoming
    fi
    return 0
}

# --- plan: who gets which pod CIDR ------------------------------------------------------------------------------

make_plan() {
    from=cluster
    if [ -z "$control_plane" ] || [ -n "$pod_cidrs" ]; then from=options; fi
    if [ "$with_cni" = no ] && [ "$from" = options ] && [ -z "$pod_cidrs" ]; then return; fi
    if [ "$from" = cluster ]; then
        on_control_plane plan_of_cluster || fail "the cluster's pod CIDRs could not be read" \
            "is the API server up? or give them: --pod-cidr CIDR"
    elif [ -z "$pod_cidrs" ]; then
        fail "no cluster answers here, so nobody hands out pod CIDRs" \
            "--pod-cidr CIDR, or run this where kubectl and /etc/kubernetes/admin.conf are"
    elif [ "$where" = node ]; then
        keep cidrs "${pod_cidrs%"$newline"}"
    else
        select_node 1
        plan_of_options || fail "the pod CIDRs could not be split between the nodes" "--pod-cidr 10.244.0.0/16"
    fi
    each targets read_plan
    if [ "$agent" = yes ]; then plan_peers; fi
}

plan_of_cluster() { step "read the cluster's pod CIDRs" "$(fact tool)" cluster plan --text && keep_plan; }

plan_of_options() {
    set --
    IFS=$newline
    for cidr in $pod_cidrs; do set -- ${1+"$@"} --split "$cidr"; done
    IFS=$blanks
    turn=1
    while [ "$turn" -le "$count" ]; do
        set -- "$@" --node "$(cat "$work/$turn.name")"
        turn=$((turn + 1))
    done
    step "split the pod CIDRs" "$(fact tool)" cluster plan --text "$@" && keep_plan
}

keep_plan() { cp "$work/out" "$work/plan"; }

read_plan() { # lines `node NAME CIDR,CIDR` and `cluster CIDR`, separated by tabs
    [ -s "$work/plan" ] || return 0
    while IFS=$tab read -r kind first second; do
        case $kind in
            node) if [ "$first" = "$node" ]; then keep cidrs "$(printf '%s' "$second" | tr , '\n')"; fi ;;
            cluster)
                case $newline$cluster_cidrs in
                    *"$newline$first$newline"*) ;;
                    *) cluster_cidrs=$cluster_cidrs$first$newline ;;
                esac
                ;;
        esac
    done <"$work/plan"
    known cidrs || fail "the cluster has no pod CIDR for node $node" \
        "kubectl get node $node -o yaml; kube-controller-manager needs --allocate-node-cidrs, or give --pod-cidr"
}

# How the agent learns of the other nodes: from the API where the cluster hands out the pod CIDRs, else from a file that
# is the same on every node.
plan_peers() {
    if [ -n "$peers" ]; then
        cp "$peers" "$work/peers.toml"
    elif [ "$from" = options ] && [ -z "$kubeconfig" ]; then
        : >"$work/peers.toml"
        find_naming
        each targets write_peer
    fi
}

find_naming() { # by name where the nodes' resolver knows them, since an address may change when a node restarts
    by_name=no
    [ "$where" = kind ] || return 0
    last=$(cat "$work/$count.name")
    select_node 1
    if reach getent hosts "$last" </dev/null >/dev/null 2>&1; then by_name=yes; fi
}

write_peer() {
    if [ "$by_name" = yes ]; then
        addresses=$node
    else
        addresses=$(reach ip -o addr show scope global </dev/null 2>>"$work/provider" |
            awk '$3 ~ /^inet/ && !/ (docker|cni|podwire|pw|veth|br-)/ { sub("/.*", "", $4); print $4 }')
        [ -n "$addresses" ] || fail "node $node has no address that others reach it by" "--peers FILE names them"
    fi
    {
        printf '[[node]]\nname = "%s"\naddresses = [%s]\npod_cidrs = [%s]\n\n' "$node" \
            "$(quoted "$addresses")" "$(quoted "$(fact cidrs)")"
    } >>"$work/peers.toml"
}

quoted() { printf '%s\n' "$1" | sed 's/.*/"&"/' | tr '\n' ',' | sed 's/,$//; s/,/, /g'; }

with_options() { # COMMAND...: followed by the options of the installation of the selected node
    IFS=$newline
    for cidr in $(fact cidrs); do set -- "$@" --pod-cidr "$cidr"; done
    for cidr in $cluster_cidrs; do set -- "$@" --cluster-cidr "$cidr"; done
    IFS=$blanks
    [ "$with_cni" = no ] || set -- "$@" --cni
    [ "$with_shim" = no ] || set -- "$@" --shim
    if [ "$with_cni" = yes ] && [ "$agent" = no ]; then set -- "$@" --no-agent; fi
    [ "$where" = node ] || set -- "$@" --node-name "$node"
    [ -z "$mode" ] || set -- "$@" --mode "$mode"
    [ ! -s "$work/peers.toml" ] || set -- "$@" --peers "$handed/peers.toml"
    [ ! -s "$work/agent.kubeconfig" ] || set -- "$@" --kubeconfig "$handed/agent.kubeconfig"
    "$@"
}

# --- install ----------------------------------------------------------------------------------------------------

install_all() {
    each all find_payload
    disturbing=yes
    each all push
    make_plan
    if [ -s "$work/peers.toml" ]; then each targets hand peers.toml; fi
    if [ -n "$kubeconfig" ]; then
        cp "$kubeconfig" "$work/agent.kubeconfig"
        each targets hand agent.kubeconfig
    fi
    faults=0
    each targets preflight
    if [ "$dry_run" = yes ]; then
        each targets foresee
        [ "$faults" = 0 ] || fail "preflight found faults on $faults of the nodes" "mend what is named above"
        return
    fi
    [ "$faults" = 0 ] || fail "preflight found faults on $faults of the nodes, and nothing was changed" \
        "mend what is named above, and call again"

    mkfifo "$work/lifeline" || fail "no pipe can be made in $work"
    exec 3<>"$work/lifeline"
    exec 4<"$work/lifeline"
    changing=yes
    if [ "$replace_kindnet" = yes ]; then remove_kindnet; fi
    if [ "$agent" = yes ] && [ "${from:-options}" = cluster ] && [ ! -s "$work/peers.toml" ] && [ -z "$kubeconfig" ]; then
        on_control_plane grant
        each targets hand agent.kubeconfig
    fi
    fresh=0
    each targets install_node
    if [ "$fresh" = 0 ]; then
        commit_all
        say "nothing to do: $(fact identity) is installed on all nodes, with the same options"
        return
    fi
    if [ "$with_shim" = yes ] && [ -n "$control_plane" ]; then each targets annotate; fi
    if [ -n "$control_plane" ]; then on_control_plane wait_ready; fi
    if [ "$smoke" = yes ] && [ "$with_cni" = yes ]; then smoke_test; fi
    commit_all
    say "installed: $(listed)"
}

hand() { # FILE: to the selected node, for root's eyes only, through stdin
    input=$work/$1
    # shellcheck disable=SC2016
    step "hand over $1" sh -c 'umask 077; mkdir -p "$1" && cat >"$1/$2"' sh "$handed" "$1" ||
        fail "$handed/$1 could not be written on node $node"
}

preflight() {
    shown=yes
    with_options step preflight "$(fact tool)" preflight || faults=$((faults + 1))
}

foresee() {
    say "[$node] would install $(fact identity): pod CIDRs $(fact cidrs | tr '\n' ' ')plugin $with_cni, agent $agent, shim $with_shim"
}

remove_kindnet() {
    if [ -z "$control_plane" ]; then fail "--replace-kindnet needs the cluster's API" "leave it out"; fi
    on_control_plane step "remove kindnet" "$(fact tool)" cluster kindnet remove ||
        fail "kindnet could not be removed" "kubectl -n kube-system get daemonset kindnet"
    if [ "$(cat "$work/out")" = removed ]; then kindnet_removed=yes; fi
}

grant() {
    # Of what was granted before this run, nothing is taken back when it fails.
    step "look for the agent's access" "$(fact tool)" cluster grant --check || fail "the cluster does not answer"
    if [ "$(cat "$work/out")" != present ]; then granted=yes; fi
    secret=yes
    step "give the agent access to the API" "$(fact tool)" cluster grant ||
        fail "the agent's access could not be made" "kubectl auth can-i create clusterrole"
    mv "$work/out" "$work/agent.kubeconfig"
}

install_node() {
    # From here on the node has a record of what happened, which its rollback reads.
    keep touched yes
    if known incoming; then
        keep placed yes
        step "place $(fact identity)" "$(fact tool)" place "$(fact incoming)/$(fact identity)" ||
            fail "the payload could not be placed on node $node"
        keep tool "$places/versions/$(fact identity)/bin/podwire-node"
    fi
    input=lifeline shown=yes
    with_options step install "$(fact tool)" install --wait-lifeline ||
        fail "the installation on node $node failed" "the last lines above say why"
    grep -q 'already installed' "$work/err" "$work/out" || fresh=$((fresh + 1))
}

annotate() {
    name=$node
    on_control_plane step "name the runtime endpoint of $name in the cluster" \
        "$(on_control_plane fact tool)" cluster annotate "$name" "$shim_socket" ||
        fail "the annotation of node $name could not be set" "kubectl get node $name -o yaml"
    annotated=yes
}

wait_ready() {
    shown=yes
    turn=1
    set --
    while [ "$turn" -le "$count" ]; do
        [ -s "$work/$turn.aside" ] || set -- ${1+"$@"} --node "$(cat "$work/$turn.name")"
        turn=$((turn + 1))
    done
    [ "$where" = kind ] || set --
    step "wait for Ready" "$(fact tool)" cluster ready ${1+"$@"} ||
        fail "not every node became Ready" "kubectl describe node; journalctl -u kubelet on the node"
}

smoke_test() {
    smoking=yes
    : >"$work/smoke"
    each targets smoke_start
    each targets smoke_check
    smoke_stop || fail "a test pod could not be removed" "podwire-cri sandbox list on the node"
}

smoke_start() {
    keep smoking yes
    step "start test pods" "$(fact tool)" smoke start || fail "a test pod did not start on node $node" \
        "the plugin's journal on the node: journalctl -t podwire; podwire-net doctor"
    cat "$work/out" >>"$work/smoke"
}

smoke_check() {
    input=$work/smoke shown=yes
    step "pods talk: same node, across nodes, hostPort" "$(fact tool)" smoke check ||
        fail "pods of node $node do not reach what they should" "podwire-net doctor on the node"
}

smoke_stop() {
    smoking=no smoke_faults=0
    each targets smoke_stop_node
    [ "$smoke_faults" = 0 ]
}

smoke_stop_node() {
    known smoking || return 0
    forget smoking
    step "remove test pods" "$(fact tool)" smoke stop || smoke_faults=$((smoke_faults + 1))
}

# Everything is there and tested: from here on there is no way back, and a signal must not leave half of the nodes open.
commit_all() {
    trap '' INT TERM HUP PIPE
    changing=no faults=0
    each targets commit_node
    [ "$faults" = 0 ] || fail "everything is installed, but $faults of the nodes could not close their transaction" \
        "podwire-node commit on those nodes"
}

commit_node() { step commit "$(fact tool)" commit || faults=$((faults + 1)); }

# --- undo -------------------------------------------------------------------------------------------------------

changing=no disturbing=no smoking=no granted=no annotated=no kindnet_removed=no

undo() { # everything this run changed, on every node; goes on after a failure
    undo_faults=0
    say "undoing what this run changed"
    [ "$smoking" = no ] || smoke_stop || undo_faults=$((undo_faults + 1))
    # The cluster's side first: it is asked with the payload that the nodes are about to lose.
    if [ "$kindnet_removed" = yes ]; then undo_cluster "bring kindnet back" kindnet restore; fi
    if [ "$annotated" = yes ]; then undo_cluster "take the endpoints' names back" annotate --restore; fi
    each reverse undo_node
    if [ "$granted" = yes ]; then undo_cluster "take the agent's access back" revoke; fi
    each reverse undo_place
    if [ "$undo_faults" = 0 ]; then
        say "undone: every node is as it was"
    else
        say "not everything could be undone: ./install.sh $where $(again)--rollback, then --status"
    fi
}

again() { if [ "$where" = kind ]; then printf -- '--name %s --provider %s ' "$cluster" "$provider"; fi; }

undo_cluster() { # TITLE VERB...
    title_of_undo=$1
    shift
    on_control_plane cluster_step "$title_of_undo" "$@" || undo_faults=$((undo_faults + 1))
}

cluster_step() { # TITLE VERB...
    title_of_step=$1
    shift
    step "$title_of_step" "$(fact tool)" cluster "$@"
}

undo_node() {
    known touched || return 0
    # A signal may have come while the payload was moved to its place.
    if ! reach test -x "$(fact tool)" </dev/null 2>/dev/null; then
        keep tool "$places/versions/$(fact identity)/bin/podwire-node"
    fi
    shown=yes
    step "roll back" "$(fact tool)" rollback || {
        undo_faults=$((undo_faults + 1))
        return 0
    }
    forget touched
}

undo_place() { # the version that this run brought, unless the node could not be rolled back and needs it
    if ! known placed || known touched; then return 0; fi
    # shellcheck disable=SC2016
    step "remove $(fact identity)" sh -c 'case $(readlink "$1/current") in *"/$2") exit 1 ;; esac
        rm -rf "$1/versions/$2"; if [ "$3" = yes ]; then rmdir "$1/versions" "$1" 2>/dev/null; fi; :' \
        sh "$places" "$(fact identity)" "$(fact made)" || undo_faults=$((undo_faults + 1))
}

finish() { # however this process ends
    ending=$?
    trap '' INT TERM HUP PIPE
    trap - EXIT
    stop_step
    [ "$changing" = no ] || undo
    [ "$disturbing" = no ] || each all clean_node
    [ -z "$lock" ] || rm -rf "$lock"
    [ -z "$log" ] || [ ! -s "$log" ] || [ "$ending" = 1 ] || printf 'details: %s\n' "$log"
    rm -rf "$work"
    exit "$ending"
}

# --- the other actions ------------------------------------------------------------------------------------------

find_tool() { # podwire-node as it is installed on the selected node
    # shellcheck disable=SC2016
    tool=$(reach sh -c 'for tool in "$1"/current/bin/podwire-node "$1"/versions/*/bin/podwire-node; do
        if [ -x "$tool" ]; then echo "$tool"; exit; fi; done; exit 1' sh "$places" </dev/null 2>/dev/null) || return 0
    keep tool "$tool"
}

show_status() {
    each targets find_tool
    : >"$work/status"
    each targets status_of
    number=1
    while [ "$number" -le "$count" ] && ! known tool; do number=$((number + 1)); done
    if [ "$number" -gt "$count" ]; then
        say "podwire is not installed on: $(listed)"
        return
    fi
    select_node "$number"
    reach "$(fact tool)" cluster table <"$work/status" || fail "a node is not well" "podwire-net doctor on the node"
}

status_of() { # one line: name, tab, JSON or nothing
    answer=''
    if known tool; then answer=$(reach "$(fact tool)" status --json </dev/null 2>>"$log" | tr -d '\n'); fi
    printf '%s\t%s\n' "$node" "$answer" >>"$work/status"
}

roll_back_all() {
    each all find_tool
    faults=0
    each reverse roll_back_node
    [ "$faults" = 0 ] || fail "not every node could be rolled back" "./install.sh $where $(again)--status"
}

roll_back_node() {
    if known aside || ! known tool; then return 0; fi
    shown=yes
    step "roll back" "$(fact tool)" rollback || faults=$((faults + 1))
}

uninstall_all() {
    each all find_tool
    left=0 faults=0 remaining=0
    each all count_installed
    if [ "$remaining" = 0 ]; then
        say "nothing to do: podwire is not installed on $(listed)"
        return
    fi
    # The cluster is asked with a payload that the node is about to lose, so the control plane comes last, and what is
    # the whole cluster's goes only when the whole cluster is done.
    each reverse uninstall_other
    if [ -n "$control_plane" ] && [ "$left$faults" = 00 ] && on_control_plane known tool && [ -z "$only" ]; then
        if [ "$dry_run" = no ]; then
            for verb in "kindnet restore" "annotate --restore" revoke; do
                # shellcheck disable=SC2086
                on_control_plane cluster_step "cluster: $verb" $verb || faults=$((faults + 1))
            done
        else
            say "[cluster] would restore kindnet if it was kept, endpoint annotations and the API as they were"
        fi
    fi
    if [ -n "$control_plane" ] && ! on_control_plane known aside; then on_control_plane uninstall_node; fi
    [ "$faults" = 0 ] || fail "uninstalling failed on $faults places" "./install.sh $where $(again)--uninstall again"
    [ "$dry_run" = no ] || return 0
    if [ "$left" != 0 ]; then
        say "unfinished: pods of the plugin are left on $left of the nodes, and its executable with them"
        say "  delete them, or call ./install.sh $where $(again)--uninstall --delete-pods"
        return 3
    fi
    say "uninstalled: $(listed)"
}

count_installed() { if known tool && ! known aside; then remaining=$((remaining + 1)); fi; }

uninstall_other() { [ "$number" = "$control_plane" ] || known aside || uninstall_node; }

uninstall_node() {
    known tool || return 0
    set --
    [ -z "$wait_seconds" ] || set -- "$@" --wait "$wait_seconds"
    [ "$delete_pods" = no ] || set -- "$@" --delete-pods
    [ "$dry_run" = no ] || set -- "$@" --dry-run
    shown=yes
    step uninstall "$(fact tool)" uninstall ${1+"$@"}
    case $? in
        0) ;;
        3) left=$((left + 1)) ;;
        *) faults=$((faults + 1)) ;;
    esac
}

# --- main -------------------------------------------------------------------------------------------------------

where=node log='' lock=''
read_words ${1+"$@"}
check_words
work=$(mktemp -d "${TMPDIR:-/tmp}/podwire-install.XXXXXX") || exit 1
: >"$work/provider"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# Whoever read the output is gone: what is undone is told to the log.
trap 'exec >>"${log:-/dev/null}" 2>&1; exit 129' HUP
trap 'exec >>"${log:-/dev/null}" 2>&1; exit 141' PIPE
open_log
find_nodes
[ "$action" = status ] || take_lock
case $action in
    install) install_all ;;
    status) show_status ;;
    rollback) roll_back_all ;;
    uninstall) uninstall_all ;;
esac
exit $?
