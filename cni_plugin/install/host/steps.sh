# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# How one command is run on a node and shown: its progress, its log, its end after a signal.

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
