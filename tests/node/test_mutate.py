"""What a rule adds is what a container of a real containerd finds, and what kubelet reads back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cri_shim.passing import rule
from tests.lab.containerd import ContainerdBinary
from tests.lab.node import Node

MEMORY = 64 << 20
DO = ", ".join(
    (
        'labels = { "example.com/team" = "shop" }',
        'annotations = { "example.com/cost" = "42" }',
        'dns = { servers = ["192.0.2.99"], searches = ["svc.example"] }',
        'environment = { GREETING = "hello from the node" }',
        'mounts = [{ host_path = "/etc/hostname", container_path = "/node-name" }]',
        'devices = [{ host_path = "/dev/null", container_path = "/dev/nothing" }]',
        f"ceilings = {{ memory = {MEMORY} }}",
    )
)


@pytest.fixture(scope="module")
def shared_node(usable: ContainerdBinary) -> Iterator[Node]:
    """A node whose shim adds to every pod."""
    with Node(usable) as node:
        node.restart_shim('interceptors = ["mutate"]\n' + rule("all", "mutate", DO))
        yield node


def test_a_container_finds_what_the_rule_added(node: Node) -> None:
    pod = node.run_pod("pod", annotations={"their": "own"})
    container = node.run_tools(pod, "shell", "exec sleep 3600")
    script = 'echo "$GREETING"; cat /node-name; cat /etc/resolv.conf; ls -l /dev/nothing; : > /node-name'
    code, out, error = node.cri.execute(container, ["sh", "-c", script])
    assert code != 0, "the mount is read-only"
    assert "Read-only" in error
    lines = out.splitlines()
    assert lines[0] == "hello from the node"
    assert Path("/etc/hostname").read_text().strip() in lines
    assert {"nameserver 192.0.2.99", "search svc.example"} <= set(lines)
    assert any(line.startswith("c") and line.endswith("/dev/nothing") for line in lines)

    status = node.cri.pod_status(pod)
    assert status.labels["example.com/team"] == "shop"
    assert status.labels["io.kubernetes.pod.name"] == "pod"
    assert dict(status.annotations) == {"their": "own", "example.com/cost": "42"}
    listed = node.cri.call("ListPodSandbox", filter={"label_selector": {"example.com/team": "shop"}}).items
    assert [one.id for one in listed] == [pod.id]


def test_a_container_has_no_more_memory_than_the_ceiling_also_after_a_resize(node: Node) -> None:
    container = node.run_tools(node.run_pod("pod"), "shell", "exec sleep 3600")
    assert limit(node, container) == MEMORY
    node.cri.call("UpdateContainerResources", container_id=container, linux={"memory_limit_in_bytes": 4 * MEMORY})
    assert limit(node, container) == MEMORY
    node.cri.call("UpdateContainerResources", container_id=container, linux={"memory_limit_in_bytes": MEMORY // 2})
    assert limit(node, container) == MEMORY // 2


def limit(node: Node, container: str) -> int:
    """The kernel's, of cgroup v2 or v1."""
    root, own = Path("/sys/fs/cgroup"), f"{node.cgroup_parent.strip('/')}/{container}"
    (file,) = [
        file for file in (root / own / "memory.max", root / "memory" / own / "memory.limit_in_bytes") if file.exists()
    ]
    return int(file.read_text())
