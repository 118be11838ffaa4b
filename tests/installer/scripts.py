"""The scripts that play an engine and podwire-node; $LAB is the lab's folder, $NODE the node's."""

ENGINE = r"""
{ printf '%s\0' "${0##*/}" "$@"; printf '\036\0'; } >>"$LAB/argv"
case $1 in
    ps)
        case "$*" in *io.x-k8s.kind.cluster=kind\ *) cat "$LAB/names" ;; esac
        ;;
    inspect)
        for name in "$@"; do :; done
        cat "$LAB/nodes/$name/inspect"
        ;;
    exec)
        NODE=$LAB/nodes/$3
        export NODE
        PATH=$NODE/bin:/usr/sbin:/usr/bin:/sbin:/bin
        shift 3
        # An engine starts the command with an environment of its own, and passes it no signal.
        exec setsid --wait unshare --mount --propagation private sh -c \
            'mount --bind "$NODE/opt" /opt && mount --bind "$NODE/run" /run && exec "$@"' sh "$@"
        ;;
    *)
        echo "the recorder does not know $*" >&2
        exit 1
        ;;
esac
"""

PODWIRE_NODE = r"""
here=$(cd -P "$(dirname "$0")/.." && pwd -P)
identity=${here##*/}
verb=$1
case $verb in cluster | smoke) verb=$1-$2 ;; esac
echo "$*" >>"$NODE/calls"
echo "${NODE##*/} $*" >>"$LAB/calls"
if [ -e "$NODE/behave/$verb" ]; then . "$NODE/behave/$verb"; fi
case $verb in
    place)
        mkdir -p /opt/podwire/versions
        mv "$2" /opt/podwire/versions/
        ;;
    preflight) echo "nothing is wrong" >&2 ;;
    install)
        if [ "$(cat "$NODE/options" 2>/dev/null)" = "$identity $*" ]; then
            echo "already installed: $identity" >&2
            exit 0
        fi
        echo "$identity $*" >"$NODE/options"
        for word in "$@"; do
            if [ "${before:-}" = --kubeconfig ]; then cp "$word" "$NODE/kubeconfig-got"; fi
            if [ "${before:-}" = --peers ]; then cp "$word" "$NODE/peers-got"; fi
            before=$word
        done
        ln -sfn "versions/$identity" /opt/podwire/current
        echo "conflist written" >&2
        ;;
    rollback)
        rm -f /opt/podwire/current "$NODE/options"
        echo "rolled back" >&2
        ;;
    uninstall)
        rm -rf /opt/podwire "$NODE/options"
        ;;
    status) printf '{\n "identity": "%s"\n}\n' "$identity" ;;
    cluster-plan)
        cat "$NODE/plan"
        ;;
    cluster-grant) if [ "$3" = --check ]; then echo absent; else cat "$NODE/kubeconfig"; fi ;;
    cluster-kindnet) if [ "$3" = remove ]; then echo removed; else echo restored; fi ;;
    cluster-table) cat ;;
    smoke-start) echo "pod of ${NODE##*/}" ;;
    smoke-check) cat >"$NODE/smoke-got" ;;
esac
exit 0
"""
