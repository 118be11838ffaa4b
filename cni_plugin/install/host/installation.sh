# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# An installation: preflight of all nodes, then one after the other, test pods, commit.

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
