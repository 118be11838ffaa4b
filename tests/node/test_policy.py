"""Policies in front of a real containerd: what is refused leaves nothing, what is stripped is really gone."""

from collections.abc import Iterator

import pytest

from tests.cri_shim.passing import rule
from tests.lab import images, witness
from tests.lab.containerd import ContainerdBinary
from tests.lab.cri import CriError
from tests.lab.node import Node

RULES = 'interceptors = ["policy"]\n' + rule(
    "no-host", "policy", 'host_network = "deny", capabilities = "strip", allowed_capabilities = ["SYS_TIME"]'
)
NET_ADMIN, SYS_TIME = 1 << 12, 1 << 25  # linux/capability.h


@pytest.fixture(scope="module")
def shared_node(usable: ContainerdBinary) -> Iterator[Node]:
    """A node whose shim has a policy."""
    with Node(usable) as node:
        node.restart_shim(RULES)
        yield node


def test_a_pod_on_the_hosts_network_is_refused_and_leaves_nothing(node: Node) -> None:
    node.run_pod("neighbour")
    before = witness.of_node(node.namespace, node.base)
    with pytest.raises(CriError, match=r"PERMISSION_DENIED: .*pod default/greedy: rule no-host .*remove hostNetwork"):
        node.cri.run_pod("greedy", uid="greedy", host_network=True, cgroup_parent=node.cgroup_parent)
    assert not witness.settled(before, lambda: witness.of_node(node.namespace, node.base))
    assert [one.metadata.name for one in node.cri.call("ListPodSandbox").items] == ["neighbour"]


def test_a_stripped_capability_is_not_in_the_containers_set(node: Node) -> None:
    pod = node.run_pod("pod")
    container = node.cri.call(
        "CreateContainer",
        pod_sandbox_id=pod.id,
        config={
            "metadata": {"name": "shell"},
            "image": {"image": images.TOOLS},
            "command": ["/bin/sh", "-c", "exec sleep 3600"],
            "log_path": "shell.log",
            "linux": {"security_context": {"capabilities": {"add_capabilities": ["NET_ADMIN", "SYS_TIME"]}}},
        },
        sandbox_config=pod.config,
    ).container_id
    node.cri.call("StartContainer", container_id=container)
    code, out, error = node.cri.execute(container, ["sh", "-c", "grep CapBnd /proc/self/status"])
    assert code == 0, error
    assert int(out.split()[1], 16) & (NET_ADMIN | SYS_TIME) == SYS_TIME
