"""The life of an installation on two nodes, from the first install to the last trace; each test goes on from there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import kindnode_state
from tests.lab.kindnode import Cluster, Node
from tests.lab.kindnode_pods import NodePod, pods
from tests.lab.waiting import wait_until
from tests.nodes import payloads
from tests.nodes.hostcommand import POD_CIDR, Host
from tests.nodes.kubeadm import CONTAINERD, SHIM, wait_for_kubelet

SHIM_SOCKET = Path("/run/podwire/cri.sock")

pytestmark = pytest.mark.usefixtures("kubelets", "untouched", "installed")


@pytest.fixture(scope="module")
def installed(host: Host, payload: Path, kubelets: None, untouched: None) -> None:
    """Everything, on both nodes, with the smoke test."""
    done = host.install(payload, "--all")
    assert "installed: " in done.said


@pytest.fixture(scope="module")
def pair(cluster: Cluster, installed: None) -> Iterator[list[NodePod]]:
    """A pod on each node that lives through all that follows."""
    with pods(*((node, f"old-{node.name}") for node in cluster.nodes), socket=SHIM_SOCKET) as made:
        yield made


def talk(one: NodePod, other: NodePod) -> None:
    """Both ways, each seen by the other with the pod's own address."""
    for asker, server in ((one, other), (other, one)):
        assert "hello from podwire" in asker.get(server.address)
        assert server.asked_by()[-1] == asker.address


def status(node: Node) -> dict[str, Any]:
    """What podwire-node says of itself."""
    said: dict[str, Any] = json.loads(node.exec("podwire-node", "status", "--json", check=False).stdout)
    return said


def test_pods_on_two_nodes_see_each_others_addresses(pair: list[NodePod]) -> None:
    talk(*pair)


def test_nodes_on_one_link_have_routes_to_each_other_and_no_tunnel(cluster: Cluster) -> None:
    control_plane, worker = cluster.nodes
    assert f"via {worker.addresses[0]} dev eth0" in control_plane.sh("ip route show root 10.244.0.0/16")
    assert "vxlan" not in control_plane.sh("ip -details link show")


def test_kubelet_talks_to_the_shim(worker: Node, control_plane: Node) -> None:
    for node in (worker, control_plane):
        wait_for_kubelet(node, SHIM)
        assert {call.status for call in node.kubelet_calls() if (call.endpoint, call.method) == (SHIM, "Status")} == {
            "0"
        }


def test_status_shows_every_node_with_version_and_endpoint(host: Host, payload: Path, cluster: Cluster) -> None:
    said = host.call("--status").said
    for node in cluster.nodes:
        (row,) = [line for line in said.splitlines() if line.startswith(node.name)]
        assert payloads.identity(payload) in row
        assert SHIM in row
        assert "ok" in row


def test_the_same_again_is_nothing_to_do(host: Host, payload: Path, cluster: Cluster, pair: list[NodePod]) -> None:
    before = {node: kindnode_state.of_node(node) for node in cluster.nodes}
    done = host.install(payload, "--all")
    assert "nothing to do" in done.said
    for node in cluster.nodes:
        assert before[node].difference(kindnode_state.of_node(node)) == []
    talk(*pair)


def test_an_upgrade_fails_no_pod(
    host: Host, payload: Path, newer_payload: Path, cluster: Cluster, pair: list[NodePod]
) -> None:
    rounds = 0
    with host.start("--payload", newer_payload, "--pod-cidr", POD_CIDR, "--all", "--no-smoke") as call:
        # Pods come and go all the time while every part of podwire is replaced below them.
        while call.running:
            with pods(*((node, f"young-{rounds}") for node in cluster.nodes)) as young:
                assert "hello from podwire" in young[0].get(young[1].address)
            assert "hello from podwire" in pair[0].get(pair[1].address)
            rounds += 1
        call.wait(1, 0)
    assert rounds > 3
    assert all(pod.runs for pod in pair)
    talk(*pair)
    for node in cluster.nodes:
        said = status(node)
        assert said["current"] == payloads.identity(newer_payload)


def test_the_other_way_between_nodes_is_one_option(
    host: Host, newer_payload: Path, cluster: Cluster, pair: list[NodePod]
) -> None:
    host.install(newer_payload, "--all", "--mode", "vxlan", "--no-smoke")
    for node in cluster.nodes:
        assert "vxlan id" in node.sh("ip -details link show type vxlan")
    talk(*pair)
    host.install(newer_payload, "--all", "--no-smoke")
    for node in cluster.nodes:
        wait_until(lambda node=node: not node.sh("ip link show type vxlan"), 20, "the tunnel to go")  # type: ignore[misc]
    talk(*pair)


def test_a_dead_agent_breaks_neither_traffic_nor_new_pods(cluster: Cluster, pair: list[NodePod]) -> None:
    for node in cluster.nodes:
        node.sh("systemctl stop podwire-agent")
    try:
        talk(*pair)
        with pods(*((node, "without-agent") for node in cluster.nodes), socket=SHIM_SOCKET) as young:
            talk(*young)
    finally:
        for node in cluster.nodes:
            node.sh("systemctl start podwire-agent")


def test_a_node_that_comes_back_with_another_address_is_found(
    worker: Node, control_plane: Node, pair: list[NodePod]
) -> None:
    before = worker.addresses
    worker.stop()
    worker.start_elsewhere()
    assert worker.addresses[0] != before[0]
    wait_for_kubelet(worker, SHIM)
    # As kubelet does with a sandbox that a restart has ended.
    pair.pop().remove()
    with pods((control_plane, "met"), (worker, "moved"), socket=SHIM_SOCKET) as young:
        wait_until(
            lambda: "hello from podwire" in young[0].get(young[1].address, seconds=1),
            60,
            "the moved node's pods to be reached",
            hint=lambda: control_plane.sh("ip route; journalctl -u podwire-agent -n 20 --no-pager -o cat"),
        )
        talk(*young)


def test_a_shim_that_stays_down_costs_the_node_nothing(worker: Node) -> None:
    # It cannot start, however often systemd tries.
    worker.sh("systemctl mask --runtime --now podwire-shim")
    worker.sh("systemctl stop podwire-watchdog.timer")
    try:
        # Two looks: the first notes that it is down, one after the limit acts.
        worker.exec("podwire-node", "watchdog", "--limit", "0", check=False)
        worker.exec("podwire-node", "watchdog", "--limit", "0", check=False)
        wait_for_kubelet(worker, CONTAINERD)
    finally:
        worker.sh("systemctl unmask --runtime podwire-shim; systemctl start podwire-shim")
    with pods((worker, "after-revert")) as (pod,):
        assert pod.runs


def test_an_uninstall_waits_for_the_pods_and_leaves_nothing(host: Host, cluster: Cluster, pair: list[NodePod]) -> None:
    done = host.call("--uninstall", code=3)
    assert "pods of the plugin are left" in done.said
    # Its pods lived through all of the above; those of the other node ended with its restart.
    assert cluster.nodes[0].path("/opt/cni/bin/podwire").is_symlink()
    for node in cluster.nodes:
        conflist = node.path("/etc/cni/net.d/05-podwire.conflist")
        assert not conflist.exists() or "podwire is being removed" in conflist.read_text()
    host.call("--uninstall", "--delete-pods")
    for node in cluster.nodes:
        wait_for_kubelet(node, CONTAINERD)
        # The rest, byte for byte, is compared when the module ends.
        assert not node.path("/opt/podwire").exists()
