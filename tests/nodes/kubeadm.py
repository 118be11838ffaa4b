"""What `kubeadm join` leaves on a node, for each generation of kubeadm that keeps the runtime's endpoint elsewhere."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.lab.kindnode import Node
from tests.lab.waiting import wait_until

FIXTURES = Path(__file__).resolve().parents[1] / "installer" / "kubeadm"
NEWEST = "1.35"
CONTAINERD = "unix:///run/containerd/containerd.sock"
SHIM = "unix:///run/podwire/cri.sock"
_FILES = (
    "var/lib/kubelet/config.yaml",
    "var/lib/kubelet/kubeadm-flags.env",
    "var/lib/kubelet/instance-config.yaml",
    "etc/crictl.yaml",
    "etc/default/kubelet",
)


@contextlib.contextmanager
def joined(node: Node, generation: str = NEWEST) -> Iterator[None]:
    """A node with kubeadm's files and a running kubelet; afterwards without them."""
    made = [name for name in _FILES if (FIXTURES / generation / name).exists()]
    for name in made:
        node.write(f"/{name}", (FIXTURES / generation / name).read_bytes())
    node.sh("systemctl restart kubelet")
    try:
        wait_for_kubelet(node, CONTAINERD)
        yield
    finally:
        node.sh("systemctl stop kubelet; rm -f " + " ".join(f"/{name}" for name in made))


def wait_for_kubelet(node: Node, endpoint: str, seconds: float = 20) -> None:
    """Until kubelet was answered at this endpoint, by a call that began after now."""
    before = len(node.kubelet_calls())

    def answered() -> bool:
        calls = node.kubelet_calls()[before + 1 :]
        return any(call.endpoint == endpoint and call.method == "Status" and call.status == "0" for call in calls)

    wait_until(answered, seconds, f"kubelet of {node.name} to talk to {endpoint}", every=0.1, hint=node.last_words)
