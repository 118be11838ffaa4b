"""What an installation changes in the cluster for a while: kept on this node, and put back.

kubeadm's note of a node's runtime endpoint, and kindnet's DaemonSet.
"""

import contextlib
import json
import os
from typing import Any

from cni_plugin.install import kubectl
from cni_plugin.install.kubectl import Kubectl, field
from cni_plugin.install.places import Places
from cni_plugin.install.site import NodeError

# KEP-4656 ends it: kubelets of Kubernetes 1.34 and later have the endpoint in a file of the node instead.
CRI_SOCKET = "kubeadm.alpha.kubernetes.io/cri-socket"
GONE_SECONDS = 60.0


class Kept:
    """One JSON document that outlives this process: what was in the cluster before us."""

    def __init__(self, places: Places, name: str) -> None:
        self.path = places.originals / name

    def read(self) -> dict[str, Any] | None:
        """None where nothing is kept. Raises NodeError for a file that cannot be understood."""
        try:
            value = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as fault:
            raise NodeError(f"{self.path} cannot be read: {fault}", "mend it by hand; it is JSON") from None
        return value if isinstance(value, dict) else None

    def write(self, value: dict[str, Any]) -> None:
        """By rename, so that there is never half of it; on disk before the cluster changes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.new")
        with fresh.open("w") as file:
            json.dump(value, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.path)

    def drop(self) -> None:
        """The file, and the folders where they are empty now."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
            self.path.parent.parent.rmdir()


def annotate(cluster: Kubectl, kept: Kept, name: str, socket: str) -> None:
    """Set kubeadm's note of a node's endpoint where there is one; what it was is kept."""
    before = field(cluster.json("get", "node", name), "metadata", "annotations", CRI_SOCKET)
    if before is None or before == socket:
        return
    originals = kept.read() or {}
    originals.setdefault(name, before)
    kept.write(originals)
    cluster.text("annotate", "--overwrite", "node", name, f"{CRI_SOCKET}={socket}")


def annotate_back(cluster: Kubectl, kept: Kept) -> None:
    """Every note as it was. A node that has left the cluster has none."""
    for name, socket in (kept.read() or {}).items():
        if cluster.find("node", name) is not None:
            cluster.text("annotate", "--overwrite", "node", name, f"{CRI_SOCKET}={socket}")
    kept.drop()


def kindnet_remove(cluster: Kubectl, kept: Kept, seconds: float = GONE_SECONDS) -> str:
    """Delete kindnet's DaemonSet and wait until its pods are gone: `removed`, or `absent` where there is none."""
    found = cluster.find("daemonset", "kindnet", "--namespace=kube-system")
    if found is None:
        return "absent"
    metadata = {key: field(found, "metadata", key) for key in ("name", "namespace", "labels")}
    kept.write({**{key: found[key] for key in ("apiVersion", "kind", "spec")}, "metadata": metadata})
    cluster.text("delete", "daemonset", "kindnet", "--namespace=kube-system", "--wait=false")
    chosen = field(found, "spec", "selector", "matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in sorted(chosen.items()))
    pods: list[dict[str, Any]] = []

    def gone() -> bool:
        nonlocal pods
        pods = cluster.items("pods", "--namespace=kube-system", f"--selector={selector}")
        return not pods

    if not kubectl.wait(gone, seconds):
        left = ", ".join(kubectl.names(pods))
        raise NodeError(f"kindnet's pods did not go within {seconds:g} s: {left}", "kubectl -n kube-system get pods")
    return "removed"


def kindnet_restore(cluster: Kubectl, kept: Kept) -> str:
    """Apply the kept manifest: `restored`, or `nothing kept`."""
    manifest = kept.read()
    if manifest is None:
        return "nothing kept"
    cluster.text("apply", "--filename=-", stdin=json.dumps(manifest))
    kept.drop()
    return "restored"
