# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# One run on a cluster at a time.

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
