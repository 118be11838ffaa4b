# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# Status, rollback and uninstall of what is installed.

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
    if known tool && ! known aside; then
        step "remove test pods" "$(fact tool)" smoke stop || faults=$((faults + 1))
        shown=yes
        step "roll back" "$(fact tool)" rollback || faults=$((faults + 1))
    fi
    # Of a run that was killed: a payload half unpacked, and what the node was handed, a token perhaps.
    # shellcheck disable=SC2016
    step "remove what was handed over" sh -c 'rm -rf "$1"; [ -d "$2" ] || exit 0
        find "$2" -mindepth 1 -maxdepth 1 -name ".incoming-*" -exec rm -rf {} +; rmdir "$2" 2>/dev/null; :' \
        sh "$handed" "$places" || faults=$((faults + 1))
}

uninstall_all() {
    each every find_tool
    left=0 faults=0 remaining=0 others=0
    each every count_installed
    if [ "$remaining" = 0 ]; then
        say "nothing to do: podwire is not installed on $(listed)"
        return
    fi
    if [ "$others" != 0 ] && [ -n "$control_plane" ] && on_control_plane is_target && on_control_plane known tool; then
        fail "node $(on_control_plane fact name) keeps what is the whole cluster's, and $others others have podwire" \
            "uninstall those first, or all: without --nodes"
    fi
    # The cluster is asked with a payload that the node is about to lose, so the control plane comes last, and what is
    # the whole cluster's goes only when the whole cluster is done.
    each reverse uninstall_other
    if [ -n "$control_plane" ] && [ "$left$faults$others" = 000 ]; then
        if ! on_control_plane known tool; then
            say "[cluster] the agent's access stays: $(on_control_plane fact name) has no podwire to take it back with"
            say "  kubectl delete --ignore-not-found -f conf/agent-rbac.yaml"
        elif [ "$dry_run" = no ]; then
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

is_target() { ! known aside; }

count_installed() {
    if known tool && known aside; then others=$((others + 1)); elif known tool; then remaining=$((remaining + 1)); fi
}

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
