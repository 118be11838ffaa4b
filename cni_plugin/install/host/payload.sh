# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# Which archive a node gets, and how it comes there and is cleaned up.

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
    if [ -n "$changed" ]; then
        [ "$(uname -s)" != Linux ] || return 1
        if [ ! -e "$work/old.$arch" ]; then
            : >"$work/old.$arch"
            say "$newest is older than $changed, and is built on Linux alone" >&2
        fi
    fi
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
    touch "$archive" # the build leaves an archive of the same content as it is
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
