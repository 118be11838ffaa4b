#!/usr/bin/env bash
# podwire on a real kind cluster, from `kind create cluster` without a network to pods that talk, and back again.
# Needs kind, kubectl, a container engine and images from the network, so it is no part of `./install.sh test`.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
name=podwire-test
image=busybox:1.36 # needs httpd, wget and sleep
port=18080
keep=no

usage() {
    cat <<'TEXT'
usage: tests/kind/run.sh [--name NAME] [--image IMAGE] [--keep] [INSTALL OPTIONS]

Creates the kind cluster NAME (podwire-test) with two nodes and no network, installs podwire with --all, waits for
Ready, lets two deployments talk across the nodes, by service name and through a hostPort, installs the same payload
again, uninstalls, and deletes the cluster. --keep leaves the cluster. What follows is handed to `./install.sh kind`,
for example --payload FILE on a Mac. KIND_EXPERIMENTAL_PROVIDER chooses podman or nerdctl.
TEXT
}

fail() { # MESSAGE [WHAT TO DO]
    printf 'FAILED: %s\n' "$1" >&2
    if [[ $# -gt 1 ]]; then printf '  %s\n' "$2" >&2; fi
    exit 1
}

say() { printf '\n== %s\n' "$1"; }

while [[ $# -gt 0 ]]; do
    case $1 in
        --name | --image)
            [[ $# -gt 1 ]] || fail "$1 needs a value"
            if [[ $1 == --name ]]; then name=$2; else image=$2; fi
            shift 2
            ;;
        --keep)
            keep=yes
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) break ;;
    esac
done
# "$@" is what is left for install.sh.

# --- what must be there -----------------------------------------------------------------------------------------

missing=""
for program in kind kubectl; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
engine=${KIND_EXPERIMENTAL_PROVIDER:-}
if [[ -z $engine ]]; then
    for candidate in docker podman nerdctl; do
        if [[ -z $engine ]] && command -v "$candidate" >/dev/null; then engine=$candidate; fi
    done
fi
[[ -n $engine ]] && command -v "$engine" >/dev/null || missing="$missing docker"
[[ -z $missing ]] || fail "missing:$missing" "install what is named, and call again; nothing was done"
"$engine" ps >/dev/null 2>&1 || fail "$engine does not answer" "$engine ps"
export KIND_EXPERIMENTAL_PROVIDER=$engine
if kind get clusters 2>/dev/null | grep -qxF "$name"; then
    fail "there is a kind cluster $name already" "kind delete cluster --name $name, or give another --name"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/podwire-kind.XXXXXX")
export KUBECONFIG=$work/kubeconfig

finish() {
    local code=$?
    trap '' INT TERM
    if [[ $keep == yes ]]; then
        printf '\nkept: KUBECONFIG=%s; kind delete cluster --name %s\n' "$KUBECONFIG" "$name"
    else
        kind delete cluster --name "$name" >/dev/null 2>&1 || true
        rm -rf "$work"
    fi
    if [[ $code -eq 0 ]]; then echo "all steps held"; else echo "ended with exit code $code" >&2; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- the run ----------------------------------------------------------------------------------------------------

on_node() { # NODE COMMAND...
    "$engine" exec -i "$@" </dev/null
}

podwire() { # OPTIONS...
    "$repository/install.sh" kind --name "$name" --provider "$engine" "$@"
}

fetch() { # URL WHAT: from the client's pod, until it answers; a service needs a moment
    local answer="" attempt
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        if answer=$(kubectl exec deployment/client -- wget -qO- -T 5 "$1" 2>&1); then break; fi
        sleep 2
    done
    [[ $answer == "hello from the server" ]] || fail "$2: $1 answered '$answer' (attempt $attempt)" "kubectl get pods -o wide"
    printf 'ok  %s  %s\n' "$2" "$1"
}

say "a cluster of two nodes without a network"
kind create cluster --name "$name" --config - <<'YAML'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
nodes:
  - role: control-plane
  - role: worker
YAML

say "podwire on both nodes"
podwire --all "$@"
kubectl wait --for=condition=Ready node --all --timeout=120s
kubectl --namespace kube-system rollout status deployment/coredns --timeout=180s

say "two deployments, a node each"
kubectl apply --filename - <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      nodeSelector: {kubernetes.io/hostname: $name-worker}
      containers:
        - name: server
          image: $image
          command: [sh, -c, "mkdir -p /www && echo hello from the server >/www/index.html && exec httpd -f -p 8080 -h /www"]
          ports: [{containerPort: 8080, hostPort: $port}]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      nodeSelector: {kubernetes.io/hostname: $name-control-plane}
      tolerations: [{operator: Exists}]
      containers:
        - name: client
          image: $image
          command: [sleep, "100000"]
YAML
kubectl rollout status deployment/server --timeout=180s
kubectl rollout status deployment/client --timeout=180s
address=$(kubectl get pods --selector app=server --output 'jsonpath={.items[0].status.podIP}')
worker=$(kubectl get node "$name-worker" --output 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}')
fetch "http://$address:8080/" "pod to pod across nodes"
fetch "http://server/" "by the service's name"
fetch "http://$worker:$port/" "through the hostPort"

say "the same payload again"
podwire --all "$@" | tee "$work/again"
grep -q "nothing to do" "$work/again" || fail "the second installation did something"
fetch "http://$address:8080/" "the same pod, afterwards"
podwire --status

say "and away again"
kubectl delete deployment server client --wait=true --timeout=60s
podwire --uninstall --delete-pods --wait 60
for node in "$name-control-plane" "$name-worker"; do
    for path in /opt/podwire /etc/podwire /var/lib/podwire /opt/cni/bin/podwire /etc/cni/net.d/05-podwire.conflist; do
        if on_node "$node" test -e "$path"; then fail "$path is left on $node" "rerun with --keep, and look"; fi
    done
done
