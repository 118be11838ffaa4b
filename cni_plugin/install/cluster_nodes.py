"""Who has which pod CIDR, and who is Ready: what a cluster says of its nodes."""

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from cni_plugin.install import kubectl
from cni_plugin.install.kubectl import Kubectl, field, strings
from cni_plugin.install.site import NodeError, to_stderr

READY_SECONDS = 180.0
# A node's share where no cluster hands out pod CIDRs; the sizes that kube-controller-manager gives.
SHARES = {4: 24, 6: 64}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def plan(cluster: Kubectl) -> dict[str, Any]:
    """The nodes with their pod CIDRs, and the cluster's, as far as they can be known."""
    nodes = [
        {
            "name": field(node, "metadata", "name"),
            "podCIDRs": strings(field(node, "spec", "podCIDRs")) or strings([field(node, "spec", "podCIDR")]),
            "addresses": [
                str(field(each, "address"))
                for each in field(node, "status", "addresses") or []
                if field(each, "type") == "InternalIP"
            ],
            "ready": not _why_not_ready(node),
        }
        for node in cluster.items("nodes")
    ]
    return {"nodes": nodes, "clusterCIDRs": cluster_cidrs(cluster)}


def cluster_cidrs(cluster: Kubectl) -> list[str]:
    """What kubeadm was told, else what kube-controller-manager runs with, else nothing."""
    stored = cluster.find("configmap", "kubeadm-config", "--namespace=kube-system")
    if stored is not None:
        with contextlib.suppress(yaml.YAMLError):
            text = field(stored, "data", "ClusterConfiguration")
            subnet = field(yaml.safe_load(text) if isinstance(text, str) else None, "networking", "podSubnet")
            if isinstance(subnet, str) and subnet:
                return subnet.split(",")
    for pod in cluster.items("pods", "--namespace=kube-system", "--selector=component=kube-controller-manager"):
        for container in field(pod, "spec", "containers") or []:
            for word in strings(field(container, "command")) + strings(field(container, "args")):
                flag, _, value = word.partition("=")
                if flag == "--cluster-cidr" and value:
                    return value.split(",")
    return []


def split(cidrs: Sequence[str], nodes: Sequence[str]) -> dict[str, Any]:
    """The same answer without a cluster: each node its share of each CIDR, in the order given."""
    shares: list[Iterator[Network]] = []
    for cidr in cidrs:
        try:
            whole = ipaddress.ip_network(cidr)
        except ValueError as fault:
            raise NodeError(f"--pod-cidr {cidr}: {fault}", "give a network, such as 10.244.0.0/16") from None
        share = max(SHARES[whole.version], whole.prefixlen)
        room = 1 << (share - whole.prefixlen)
        if room < len(nodes):
            raise NodeError(
                f"--pod-cidr {cidr} has room for {room} nodes with a /{share} each, and there are {len(nodes)}",
                "give a larger one, such as 10.244.0.0/16 or fd00:10:244::/56",
            )
        shares.append(iter(whole.subnets(new_prefix=share)))
    if len({ipaddress.ip_network(cidr).version for cidr in cidrs}) < len(cidrs):
        raise NodeError(f"two pod CIDRs of one family: {', '.join(cidrs)}", "give one, or one of each family")
    return {
        "nodes": [{"name": name, "podCIDRs": [str(next(each)) for each in shares]} for name in nodes],
        "clusterCIDRs": list(cidrs),
    }


def as_lines(found: dict[str, Any]) -> str:
    """A plan for a shell: `node NAME CIDR,CIDR` and `cluster CIDR`, separated by tabs."""
    lines = [f"node\t{each['name']}\t{','.join(each['podCIDRs'])}" for each in found["nodes"] if each["podCIDRs"]]
    return "".join(f"{line}\n" for line in lines + [f"cluster\t{each}" for each in found["clusterCIDRs"]])


def _why_not_ready(node: dict[str, Any]) -> str:
    """Empty for a node that is Ready, else what kubelet says."""
    for each in field(node, "status", "conditions") or []:
        if field(each, "type") == "Ready":
            if field(each, "status") == "True":
                return ""
            return f"{field(each, 'reason')}: {field(each, 'message')}"
    return "its kubelet has reported nothing yet"


def ready(cluster: Kubectl, only: Sequence[str], seconds: float) -> None:
    """Wait until the nodes are Ready; says which it waits for. Raises NodeError that names the others, with reasons."""
    waiting: dict[str, str] = {}
    told: list[str] = []

    def all_ready() -> bool:
        nonlocal waiting, told
        nodes = {str(field(node, "metadata", "name")): node for node in cluster.items("nodes")}
        wanted = only or list(nodes)
        waiting = {
            name: _why_not_ready(nodes[name]) if name in nodes else "the cluster does not know it" for name in wanted
        }
        waiting = {name: why for name, why in waiting.items() if why}
        if waiting and sorted(waiting) != told:
            told = sorted(waiting)
            to_stderr(f"waiting for {', '.join(told)}")
        return not waiting

    if not kubectl.wait(all_ready, seconds):
        reasons = "; ".join(f"{name} ({why})" for name, why in sorted(waiting.items()))
        raise NodeError(f"not Ready within {seconds:g} s: {reasons}", "kubectl describe node; journalctl -u kubelet")
