#!/usr/bin/env bash
# Builds podwire, shows it, tests it. `./install.sh --help` explains; everything made here lies under build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python=${PODWIRE_PYTHON:-/usr/bin/python3}
policy=/usr/sbin/policy-rc.d

usage() {
    cat <<'TEXT'
usage: ./install.sh build                       the plugin into build/cni, the shim into build/venv; no root needed
       ./install.sh build --payload [--arch amd64|arm64] [--refresh]
                                                what a node gets: one archive with an interpreter; no root needed
       sudo ./install.sh demo [--keep | --stop] two pods on a private node, every claim proved and measured
       sudo ./install.sh test [--soak] [PART..] all tests, or the named parts; `test --help` lists them
       sudo ./install.sh node [OPTIONS]         podwire on this machine as a node; `node --help` lists the options
       ./install.sh kind [--name NAME] [..]     podwire on the nodes of a kind cluster; `kind --help` lists the options
       ./install.sh --help                      this text

build   build/cni/podwire and what it needs beside it, to be copied as one folder; podwire-shim, podwire-cri and
        podwire-net in build/venv/bin.
        --payload: build/podwire-VERSION-ARCH.tar.gz instead, out of packages of Debian 12 and wheels that are kept
        in build/payload; --refresh fetches these again. docs/payload.md says what is in it.
demo    starts a containerd and the shim in namespaces of their own, runs the proofs, removes everything.
        --keep leaves it running and says how to talk to it; --stop removes it.
test    each part in its own process and time, two at once; exit code 1 when anything failed. --soak: the long tests too.

node    installs, uninstalls (--uninstall) or shows (--status) podwire on a node; any failure or Ctrl-C undoes all of it.
kind    the same on every node of a kind cluster. Both work in bash 3.2, and push what `build --payload` made.

demo and test install missing Debian or Ubuntu packages. No service is started, and a containerd or runc that
is already there is used, not replaced. PODWIRE_PYTHON names another Python than /usr/bin/python3 (3.11 or later).
TEXT
}

fail() { # MESSAGE [WHAT TO DO]
    printf 'install.sh: %s\n' "$1" >&2
    if [[ $# -gt 1 ]]; then printf '  %s\n' "$2" >&2; fi
    exit 1
}

wrong_use() {
    printf 'install.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

need_root() {
    [[ $EUID -eq 0 ]] || fail "$1 needs root for namespaces and containers, and runs as uid $EUID" "sudo ./install.sh $1"
}

# --- packages -------------------------------------------------------------------------------------------------

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# Debian's busybox-static replaces the package busybox, which an initramfs may be made from: then it is unpacked aside.
want_busybox() { if installed busybox; then unpack_busybox=yes; else wanted+=(busybox-static); fi; }

install_packages() { # PACKAGE..., as far as they are missing
    local wanted=() missing=() package unpack_busybox=no
    if ! command -v dpkg-query >/dev/null; then
        echo "install.sh: not a Debian or Ubuntu system: the needed tools must be there already ($*)" >&2
        return
    fi
    for package in "$@"; do
        case $package in
            # Whoever has a container engine keeps it: Docker's containerd.io and Debian's runc exclude each other.
            containerd | runc) command -v "$package" >/dev/null || wanted+=("$package") ;;
            busybox-static) want_busybox ;;
            python3-venv) "$python" -c 'import ensurepip, venv' 2>/dev/null || wanted+=("$package") ;;
            *) wanted+=("$package") ;;
        esac
    done
    for package in "${wanted[@]}"; do
        installed "$package" || missing+=("$package")
    done
    if [[ $unpack_busybox == yes && ! -e build/lab/busybox-static ]]; then missing+=(busybox-static); fi
    [[ ${#missing[@]} -gt 0 ]] || return 0

    need_root "${command:-build}"
    echo "installing ${missing[*]}"
    mkdir -p build/lab
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=120)
    # A third-party source that is down must not matter; if a needed one is, the installation says so.
    "${apt[@]}" update >build/apt.log 2>&1 || true
    if [[ $unpack_busybox == yes && ! -e build/lab/busybox-static ]]; then
        (cd build/lab && rm -f busybox-static_*.deb && "${apt[@]}" -o APT::Sandbox::User=root download busybox-static) \
            >>build/apt.log 2>&1 || fail "busybox-static cannot be downloaded: $(tail -n 1 build/apt.log)"
        dpkg-deb -x build/lab/busybox-static_*.deb build/lab/busybox-static
        rm -f build/lab/busybox-static_*.deb
        missing=("${missing[@]/busybox-static/}")
    fi
    hold_services
    # shellcheck disable=SC2068 # an element that was emptied above must vanish
    "${apt[@]}" install -y --no-remove --no-install-recommends ${missing[@]} >>build/apt.log 2>&1 </dev/null ||
        fail "apt-get could not install ${missing[*]}: $(tail -n 1 build/apt.log)" \
            "read build/apt.log, or install them by hand and call ./install.sh again"
    release_services
}

# While packages are installed nothing may start: policy-rc.d answers 101 (Debian policy 9.3.3.2). What was there is
# renamed aside and back, so it is the same file afterwards, also after an interruption at any point.
hold_services() {
    trap release_services EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [[ -e $policy || -L $policy ]] && ! grep -qs 'podwire: hold' "$policy"; then
        mv -T "$policy" "$policy.podwire-saved"
    fi
    printf '#!/bin/sh\n# podwire: hold services during an installation\nexit 101\n' >"$policy.podwire-new"
    chmod 755 "$policy.podwire-new"
    mv -T "$policy.podwire-new" "$policy"
}

release_services() {
    if grep -qs 'podwire: hold' "$policy"; then rm -f "$policy"; fi
    rm -f "$policy.podwire-new"
    if [[ -e $policy.podwire-saved || -L $policy.podwire-saved ]]; then mv -T "$policy.podwire-saved" "$policy"; fi
    trap - EXIT HUP INT TERM
}

# --- build/venv and build/cni ---------------------------------------------------------------------------------

check_python() {
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "$python does not run" "install python3, or name another one: PODWIRE_PYTHON=/path/to/python3.11"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is Python $version, and 3.11 or later is needed" "PODWIRE_PYTHON=/path/to/python3.11 ./install.sh ..."
    mkdir -p build 2>/dev/null || true
    [[ -w build ]] || fail "build/ cannot be written by uid $EUID" "sudo rm -r build, or run this with sudo as before"
}

# What the environment was made from: the same text again means there is nothing to do.
fingerprint() {
    {
        "$python" -c 'import sys; print(sys.version)'
        find cni_plugin cri_shim pyproject.toml -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
    } | sha256sum | cut -d' ' -f1
}

build() { # base | test
    local sources stamp=build/venv/.podwire
    check_python
    sources=$(fingerprint)
    if [[ ! -x build/cni/podwire || $(cat build/cni/.podwire 2>/dev/null) != "$sources" ]]; then
        "$python" -m cni_plugin.packaging build/cni >/dev/null
        echo "$sources" >build/cni/.podwire
    fi
    if build/venv/bin/python -c '' 2>/dev/null && grep -qsxE "($1|test) $sources" "$stamp"; then return; fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module" "sudo apt-get install python3-venv"
    build/venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear build/venv
    # pip builds in the folder it is given: a copy keeps the working tree clean.
    rm -rf build/source
    mkdir build/source
    cp -r pyproject.toml README.md LICENSE cni_plugin cri_shim build/source/
    local extra=""
    if [[ $1 == test ]]; then extra="[test]"; fi
    echo "filling build/venv"
    build/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile \
        --root-user-action=ignore "./build/source$extra" ||
        fail "pip could not fill build/venv (its message stands above)" "check that a package index can be reached, then call again"
    rm -rf build/source
    echo "$1 $sources" >"$stamp"
}

# --- commands -------------------------------------------------------------------------------------------------

node_packages=(containerd runc nftables iproute2 util-linux python3-venv busybox-static gcc libc6-dev)
test_packages=(git procps conntrack iptables openssl shellcheck containernetworking-plugins)

command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
    build)
        if [[ " $* " == *" --payload "* ]]; then
            check_python
            [[ $1 == --payload ]] || wrong_use "build takes --payload first, and got $*"
            exec "$python" -m cni_plugin.payload "${@:2}"
        fi
        [[ $# -eq 0 ]] || wrong_use "build takes nothing or --payload, and got $*"
        build base
        echo "built build/cni/podwire, and podwire-shim, podwire-cri and podwire-net in build/venv/bin"
        ;;
    demo)
        [[ $# -eq 0 || ($# -eq 1 && ($1 == --keep || $1 == --stop)) ]] ||
            wrong_use "demo takes --keep or --stop, and got $*"
        need_root demo
        install_packages "${node_packages[@]}"
        build base
        exec build/venv/bin/python -m tests.lab.demo "$@"
        ;;
    test)
        check_python
        # A wrong part or option is told before anything is installed.
        "$python" tests/run.py --dry-run "$@" >/dev/null || exit 2
        if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then exec "$python" tests/run.py "$@"; fi
        need_root test
        install_packages "${node_packages[@]}" "${test_packages[@]}"
        build test
        exec build/venv/bin/python tests/run.py "$@"
        ;;
    node | kind)
        # Paths among the options are the caller's.
        repository=$PWD
        cd "$OLDPWD"
        exec sh "$repository/cni_plugin/install/host.sh" "$command" ${1+"$@"}
        ;;
    --help | -h | help) usage ;;
    "") wrong_use "say what to do" ;;
    *) wrong_use "unknown argument $command" ;;
esac
