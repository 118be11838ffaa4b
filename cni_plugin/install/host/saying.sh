# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# What is told to the screen and to the log, how a failure ends, and how long something took.

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
