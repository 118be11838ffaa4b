# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# Everything a failed or interrupted run changed, taken back on every node; and however a run ends.

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
