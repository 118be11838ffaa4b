"""Objects of the Kubernetes API as they really look, and a kubeconfig."""

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
TOKEN = "token-of-podwire-agent"


def node(name: str, addresses: Sequence[str], pod_cidrs: Sequence[str], *, ready: bool = True) -> Json:
    """A Node as kubelet and the controllers write it."""
    spec: Json = {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)} if pod_cidrs else {}
    status = "True" if ready else "False"
    reason, message = (
        ("KubeletReady", "kubelet is posting ready status") if ready else ("KubeletNotReady", "no network")
    )
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": f"00000000-0000-4000-8000-{zlib.crc32(name.encode()):012d}",
            "creationTimestamp": "2026-11-25T09:00:00Z",
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
        },
        "spec": spec,
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": each} for each in addresses),
                {"type": "Hostname", "address": name},
            ],
            "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "conditions": [
                {"type": "Ready", "status": status, "reason": reason, "message": message, "lastHeartbeatTime": None}
            ],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "containerRuntimeVersion": "containerd://2.1.9"},
            "images": [],
        },
    }


def kubeconfig(server: str, token: str = TOKEN, ca: str = "") -> str:
    """A kubeconfig for this server. JSON is YAML."""
    cluster = {"server": server, **({"certificate-authority": ca} if ca else {})}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "agent", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "agent"}}],
            "current-context": "lab",
        }
    )


def status_object(code: int, reason: str, message: str) -> Json:
    """The object that every refusal comes with."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def nodes_of(path: Path) -> Iterator[Json]:
    """The nodes of a state file: whole objects, or `{"name", "addresses", "pod_cidrs", "ready"}`."""
    for each in json.loads(path.read_text()):
        if "metadata" in each:
            yield each
        else:
            yield node(each["name"], each["addresses"], each["pod_cidrs"], ready=each.get("ready", True))
