# shellcheck shell=sh disable=SC2034,SC2154 # ../host.sh and its parts share their variables
# What ./install.sh node and kind understand: the options, and what is refused before anything is looked at.

usage() {
    cat <<'TEXT'
usage: ./install.sh node [OPTIONS]          this machine
       ./install.sh kind [--name NAME] [--provider docker|podman|nerdctl|auto] [--nodes A,B] [OPTIONS]

what to do (one of them; without any: install)
  --status              version, health, runtime endpoint and claims of every node
  --uninstall           everything as before the installation; exit code 3 while pods still need the plugin
  --rollback            undo an installation that was interrupted
  --dry-run             say what an installation (or --uninstall) would do; nothing that lasts is changed

what to install
  --cni                 the plugin and the node agent (the default)
  --shim                the shim between kubelet and containerd; implies nothing else
  --all                 both
  --no-agent            the plugin without the agent: routes between nodes are yours
  --pod-cidr CIDR       where no cluster hands out pod CIDRs; a second one of the other family makes pods dual stack.
                        kind: split between the nodes in their order, a /24 (IPv4) or /64 (IPv6) each
  --cluster-cidr CIDR   never masqueraded, beside the nodes' own pod CIDRs; may be repeated
  --mode MODE           auto, host-gw or vxlan: how packets reach the other nodes
  --peers FILE          the nodes and their pod CIDRs, where the agent shall not ask the cluster
  --kubeconfig FILE     node: the agent's, as `podwire-node cluster grant` on a control-plane node prints it
  --payload FILE        the archive to install, for one architecture each; without it build/podwire-*.tar.gz is built
  --no-smoke            no test pods at the end

kind
  --name NAME           the cluster; else KIND_CLUSTER_NAME, else kind
  --provider PROVIDER   else KIND_EXPERIMENTAL_PROVIDER, else the first of docker, podman and nerdctl that has the cluster
  --nodes A,B           these nodes only
  --replace-kindnet     remove kindnet's DaemonSet; its manifest is kept and applied again by --uninstall

uninstall
  --wait SECONDS        wait so long for the pods to go
  --delete-pods         end the pods of the plugin, which their owners start again elsewhere

  --log FILE            where details go; else build/install-DATE.log
  --help                this text

exit code: 0 fine, 1 failed and everything undone, 2 wrong use, 3 unfinished (pods left), 129 to 143 interrupted and undone
TEXT
}

wrong_use() {
    printf 'install.sh %s: %s\n  ./install.sh %s --help\n' "$where" "$1" "$where" >&2
    exit 2
}

value_of() { # COUNT OPTION [VALUE]: that an option has its value
    case ${3:---} in --*) wrong_use "$2 needs a value" ;; esac
    [ "$1" -ge 2 ] || wrong_use "$2 needs a value"
}

kind_only() {
    [ "$where" = kind ] || wrong_use "$1 is an option of ./install.sh kind"
}

read_words() {
    case ${1:-} in
        node | kind) where=$1 ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            where=node
            wrong_use "say node or kind, not ${1:-nothing}"
            ;;
    esac
    shift
    action=install dry_run=no with_cni=no with_shim=no agent=yes smoke=yes replace_kindnet=no
    pod_cidrs='' cluster_cidrs='' peers='' mode='' kubeconfig='' payloads='' log=''
    cluster=${KIND_CLUSTER_NAME:-kind} provider=${KIND_EXPERIMENTAL_PROVIDER:-auto} only=''
    wait_seconds='' delete_pods=no
    while [ $# -gt 0 ]; do
        case $1 in
            --*=*) # --name=value is --name value
                word=$1
                shift
                set -- "${word%%=*}" "${word#*=}" ${1+"$@"}
                ;;
        esac
        case $1 in
            --status | status) choose status ;;
            --uninstall | uninstall) choose uninstall ;;
            --rollback | rollback) choose rollback ;;
            --dry-run) dry_run=yes ;;
            --cni) with_cni=yes ;;
            --shim) with_shim=yes ;;
            --all) with_cni=yes with_shim=yes ;;
            --no-agent) agent=no ;;
            --no-smoke) smoke=no ;;
            --delete-pods) delete_pods=yes ;;
            --replace-kindnet)
                kind_only "$1"
                replace_kindnet=yes
                ;;
            --help | -h)
                usage
                exit 0
                ;;
            --pod-cidr | --cluster-cidr | --mode | --peers | --kubeconfig | --payload | --name | --provider | --nodes | \
                --wait | --log)
                value_of $# "$@"
                take "$1" "$2"
                shift
                ;;
            *) wrong_use "unknown argument $1" ;;
        esac
        shift
    done
    [ "$with_cni$with_shim" != nono ] || with_cni=yes
    [ "$with_cni" = yes ] || agent=no
    [ "$where" = kind ] || cluster=machine
}

choose() {
    [ "$action" = install ] || [ "$action" = "$1" ] || wrong_use "--$action and --$1 exclude each other"
    action=$1
}

take() { # OPTION VALUE
    [ -n "$2" ] || wrong_use "$1 needs a value that is not empty"
    case $2 in *"$newline"*) wrong_use "$1 has a line break in its value" ;; esac
    case $1 in
        --pod-cidr | --cluster-cidr)
            case $2 in
                *[!0-9A-Fa-f.:/]* | /* | */ | */*/*) wrong_use "$1 takes a network such as 10.244.0.0/16, not $2" ;;
                */*) ;;
                *) wrong_use "$1 takes a network such as 10.244.0.0/16, not $2" ;;
            esac
            case $1 in
                --pod-cidr) pod_cidrs=$pod_cidrs$2$newline ;;
                *) cluster_cidrs=$cluster_cidrs$2$newline ;;
            esac
            ;;
        --mode)
            case $2 in auto | host-gw | vxlan) mode=$2 ;; *) wrong_use "--mode is auto, host-gw or vxlan, not $2" ;; esac
            ;;
        --peers) peers=$(path_of "$2") ;;
        --kubeconfig)
            [ "$where" = node ] || wrong_use "--kubeconfig is an option of ./install.sh node: on kind it is made here"
            kubeconfig=$(path_of "$2")
            ;;
        --payload) payloads=$payloads$(path_of "$2")$newline ;;
        --name) kind_only "$1" && cluster=$2 ;;
        --provider)
            kind_only "$1"
            provider=$2
            ;;
        --nodes)
            kind_only "$1"
            case ,$2, in *,,*) wrong_use "--nodes takes names with commas between them, not '$2'" ;; esac
            only=$2
            ;;
        --wait)
            case $2 in *[!0-9]*) wrong_use "--wait takes whole seconds, not $2" ;; esac
            wait_seconds=$2
            ;;
        --log) log=$(path_of "$2") ;;
    esac
}

path_of() { case $1 in -*) printf './%s' "$1" ;; *) printf '%s' "$1" ;; esac } # never an option of cp or tar

check_words() {
    if [ "$replace_kindnet" = yes ] && [ -n "$only" ]; then
        wrong_use "--replace-kindnet takes the network from all nodes, and --nodes installs another one on some only"
    fi
    case $provider in docker | podman | nerdctl | auto) ;; *)
        wrong_use "--provider (or KIND_EXPERIMENTAL_PROVIDER) is docker, podman, nerdctl or auto, not $provider"
        ;;
    esac
    IFS=$newline
    for file in $payloads $peers $kubeconfig; do
        if [ ! -f "$file" ] || [ ! -r "$file" ]; then wrong_use "$file is not a file that can be read"; fi
    done
    IFS=$blanks
    if [ "$where" = node ]; then
        [ "$(id -u)" = 0 ] || fail "this changes the machine and runs as uid $(id -u)" "sudo ./install.sh node ..."
        [ "$(uname -s)" = Linux ] || fail "a node is a Linux machine, and this is $(uname -s)" "./install.sh kind --help"
    fi
}
