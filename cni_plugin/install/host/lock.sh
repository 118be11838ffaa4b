# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# One run on a cluster at a time: two would undo each other.

# A file with the process id of the run, which comes to be there with its content. After a run that was killed it stays,
# and its process is gone.
take_lock() {
    place=${TMPDIR:-/tmp}/podwire-install-$where-$(printf '%s' "$cluster" | tr -c 'A-Za-z0-9._-' _).lock
    echo $$ >"$work/pid"
    if hold_lock; then return; fi
    holder=$(cat "$place" 2>/dev/null)
    if [ -z "$holder" ]; then
        fail "the lock $place cannot be made or read" "is it another user's? remove it when no installation runs"
    fi
    if is_running "$holder"; then
        fail "another installation runs on it (process $holder)" "wait for it, or end it: kill $holder"
    fi
    mv "$place" "$work/stale-lock" 2>/dev/null
    # Another run may have taken the place over in the meantime: it gets its lock back.
    if [ "$(cat "$work/stale-lock" 2>/dev/null)" != "$holder" ]; then ln "$work/stale-lock" "$place" 2>/dev/null; fi
    hold_lock || fail "another installation began at the same moment" "wait for it, and call again"
}

hold_lock() { ln "$work/pid" "$place" 2>/dev/null && lock=$place; }

is_running() { # PROCESS: and is an installation; busybox ps knows no -p
    if [ -d /proc/self ]; then
        tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -q 'host\.sh'
    else
        ps -p "$1" -o args= 2>/dev/null | grep -q 'host\.sh'
    fi
} 2>/dev/null
