# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# Who gets which pod CIDR, and how the agents learn of one another.

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
    each every read_plan
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
    known cidrs || known aside || fail "the cluster has no pod CIDR for node $node" \
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
        each every write_peer
    fi
}

find_naming() { # by name where the nodes' resolver knows them, since an address may change when a node restarts
    by_name=no
    [ "$where" = kind ] || return 0
    last=$(cat "$work/$count.name")
    each targets select_first
    if reach getent hosts "$last" </dev/null >/dev/null 2>&1; then by_name=yes; fi
}

select_first() { return 1; }

write_peer() {
    known cidrs || return 0
    if [ "$by_name" = yes ]; then
        addresses=$node
    elif known outside && [ "$(fact outside)" != running ]; then
        say "[$node] is $(fact outside), so the agents do not learn of it: call again when it runs"
        return 0
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
