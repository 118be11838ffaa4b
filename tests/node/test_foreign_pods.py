"""A node changes its plugin while pods run: those of the earlier one keep their addresses until they end."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.containerd import ContainerdBinary
from tests.lab.cri import Pod
from tests.lab.images import REPOSITORY
from tests.lab.node import SUBNET, Node, conflist
from tests.lab.waiting import wait_until

REFERENCE = Path("/usr/lib/cni")
_SURVEY = """\
import json, socket
from cni_plugin import foreign
print(json.dumps({socket.inet_ntoa(address): path for address, path in foreign.survey().items()}))
"""

pytestmark = pytest.mark.skipif(
    not (REFERENCE / "ptp").exists(), reason=f"{REFERENCE}/ptp is missing (package containernetworking-plugins)"
)


@pytest.fixture
def node(usable: ContainerdBinary) -> Iterator[Node]:
    """A node whose first pods are wired by ptp and host-local."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": SUBNET}]]}
    before = {"cniVersion": "1.0.0", "name": "before", "plugins": [{"type": "ptp", "ipam": ipam}]}
    with Node(usable, configuration=before) as node:
        for name in ("ptp", "host-local"):
            shutil.copy2(REFERENCE / name, node.base / "cni/bin" / name)
        yield node


def survey(node: Node) -> dict[str, str]:
    """Address and file of every foreign pod, as the plugin would read them on the node."""
    python = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-B", "-c", _SURVEY]
    seen: dict[str, str] = json.loads(node.namespace.run(python).stdout)
    return seen


def address_of(node: Node, pod: Pod) -> str:
    """What kubelet would be told."""
    return str(node.cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.network.ip)


def test_pods_of_the_earlier_plugin_keep_their_addresses_until_they_end(node: Node) -> None:
    old = [node.run_pod(f"old{number}") for number in range(2)]
    addresses = [address_of(node, pod) for pod in old]
    # libcni's own files, which are gone after DEL, whoever runs then.
    files = [f"/var/lib/cni/results/before-{pod.id}-eth0" for pod in old]
    assert survey(node) == dict(zip(addresses, files, strict=True))

    node.write_configuration(conflist(subnet=SUBNET, cooldown=0))
    wait_until(
        lambda: "podwire" in str(node.cri.call("Status", verbose=True).info),
        10,
        "containerd to take the new configuration",
        hint=node.explain,
    )
    new = [node.run_pod(f"new{number}") for number in range(3)]
    assert not {address_of(node, pod) for pod in new} & set(addresses)
    assert foreign(node) == sorted(addresses)
    # DEL of a pod that podwire never saw, with podwire's configuration.
    node.remove_pod(old[0])
    assert foreign(node) == [addresses[1]]
    assert addresses[0] not in survey(node)
    for pod in list(node.pods):
        node.remove_pod(pod)
    assert foreign(node) == []
    assert survey(node) == {}


def foreign(node: Node) -> list[str]:
    """The addresses that the plugin's state still holds for foreign pods."""
    return sorted(path.name for path in (node.base / "run/podwire").glob("*/foreign/*"))
