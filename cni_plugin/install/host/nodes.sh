# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# Which nodes there are and what is known of each, and how a command reaches one.

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
# cluster, `reverse` is all from the last, `every` has also those that --nodes leaves out: they have pod CIDRs as well.
# Stops at the first that fails. Not to be nested: sh has no local variables.
each() { # targets | all | reverse | every, COMMAND...
    scope=$1
    shift
    turn=1
    while [ "$turn" -le "$count" ]; do
        if [ "$scope" = reverse ]; then select_node $((count + 1 - turn)); else select_node "$turn"; fi
        case $scope in
            targets) if known aside; then skipped=yes; else skipped=no; fi ;;
            every) skipped=no ;;
            *) if known outside; then skipped=yes; else skipped=no; fi ;;
        esac
        [ "$skipped" = yes ] || "$@" || return
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
    reason=$(tail -n 1 "$work/provider")
    fail "no kind cluster $cluster was found with$looked${reason:+: $reason}" \
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
    if [ "$2" != running ] && [ "$wanted" = yes ]; then
        fail "node $1 is not running but $2" "$provider start $1, or leave it out with --nodes"
    fi
    add_node "$1"
    [ "$wanted" = yes ] || keep aside yes
    if [ "$2" = running ] && [ "$3" = control-plane ] && [ -z "$control_plane" ]; then
        control_plane=$number
    elif [ "$wanted" = no ]; then
        keep outside "$2"
    fi
}

add_node() { # NAME: it is written into a peers file and handed to commands
    case $1 in
        -* | '' | *[!A-Za-z0-9._-]*) fail "'$1' is no name of a node: letters, digits, dot, dash, not a dash first" ;;
    esac
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
        if known outside; then
            :
        elif known aside; then
            printf '%s (only asked)\n' "$(fact name)"
        else
            fact name
        fi
        number=$((number + 1))
    done | tr '\n' ' ' | sed 's/ $//'
}

reach() { # COMMAND...: on the selected node, with this stdin. The only line in which kind differs.
    if [ "$where" = kind ]; then set -- "$provider" exec -i "$node" "$@"; fi
    "$@" 3>&- 4<&-
}
