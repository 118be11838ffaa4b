"""Whoever is stopped half-way leaves both nodes as they were: Ctrl-C, and a killed terminal with a later --rollback."""

from pathlib import Path

import pytest

from tests.lab import kindnode_state, witness
from tests.lab.kindnode import Cluster, Node
from tests.lab.witness import Snapshot
from tests.nodes.hostcommand import POD_CIDR, Host
from tests.nodes.kubeadm import CONTAINERD, wait_for_kubelet

pytestmark = pytest.mark.usefixtures("kubelets", "untouched")


@pytest.fixture
def before(cluster: Cluster) -> dict[Node, Snapshot]:
    """What the nodes held."""
    return {node: kindnode_state.of_node(node) for node in cluster.nodes}


def assert_as_before(before: dict[Node, Snapshot]) -> None:
    """Every node, and its kubelet well."""
    for node, found in before.items():
        left = witness.settled(found, lambda node=node: kindnode_state.of_node(node))  # type: ignore[misc]
        assert not left, f"{node.name} is not as it was:\n" + "\n".join(left)
        wait_for_kubelet(node, CONTAINERD)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("self-test of the plugin", id="early", marks=pytest.mark.soak),
        pytest.param("restarting kubelet", id="kubelet"),
        pytest.param("start test pods", id="smoke", marks=pytest.mark.soak),
    ],
)
def test_ctrl_c_undoes_everything_and_says_so(
    host: Host, payload: Path, before: dict[Node, Snapshot], moment: str
) -> None:
    with host.start("--payload", payload, "--pod-cidr", POD_CIDR, "--all") as call:
        # On the second node: the first has all of podwire by then.
        call.wait_for(lambda said: said.count(moment) == (2 if moment != "start test pods" else 1), 180, moment)
        call.interrupt()
        done = call.wait(180, 130)
    assert "undone: every node is as it was" in done.said
    assert_as_before(before)


@pytest.mark.soak
def test_a_killed_host_is_undone_by_the_nodes_and_a_rollback(
    host: Host, payload: Path, before: dict[Node, Snapshot]
) -> None:
    with host.start("--payload", payload, "--pod-cidr", POD_CIDR, "--all") as call:
        call.wait_for(lambda said: said.count("restarting kubelet") == 2, 180, "the second node's kubelet")
        call.kill()
    host.call("--rollback")
    assert_as_before(before)
