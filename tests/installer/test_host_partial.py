"""`--nodes`: what happens to the nodes that are named, to the others, and to what is the whole cluster's."""

import pytest

from tests.installer.hostlab import IDENTITY, HostLab, Node

pytestmark = pytest.mark.root

PLAN = "node\tnode-a\t10.9.0.0/24\nnode\tnode-b\t10.9.1.0/24\nnode\tnode-c\t10.9.2.0/24\n"


def nodes_without_a_cluster(lab: HostLab, state: str = "running") -> list[Node]:
    """The last one in `state`."""
    nodes = [lab.add("node-a", "control-plane"), lab.add("node-b"), lab.add("node-c", state=state)]
    for at, node in enumerate(nodes):
        (node.folder / "addresses").write_text(f"2: eth0    inet 172.18.0.{at + 2}/16 scope global eth0\n")
        (node.folder / "plan").write_text(PLAN)
    return nodes


def asked(node: Node) -> set[str]:
    return {call.partition(" ")[0] for call in node.calls}


def test_a_node_gets_the_same_pod_cidr_whether_the_others_are_named_or_not(lab: HostLab) -> None:
    control_plane, left_out, named = nodes_without_a_cluster(lab)
    done = lab.install("--pod-cidr", "10.9.0.0/16", "--nodes", "node-c")
    assert done.code == 0, done.err
    planned = [call for node in (control_plane, left_out, named) for call in node.calls if "plan" in call]
    assert planned == ["cluster plan --text --split 10.9.0.0/16 --node node-a --node node-b --node node-c"]
    assert "--pod-cidr 10.9.2.0/24" in next(call for call in named.calls if call.startswith("install"))
    assert left_out.tree == []
    assert not asked(left_out) - {"cluster"}


def test_the_agents_learn_of_nodes_that_are_left_out(lab: HostLab) -> None:
    named = nodes_without_a_cluster(lab)[2]
    assert lab.install("--pod-cidr", "10.9.0.0/16", "--nodes", "node-c").code == 0
    peers = (named.folder / "peers-got").read_text()
    assert [line for line in peers.splitlines() if line.startswith(("name", "addresses"))] == [
        'name = "node-a"',
        'addresses = ["172.18.0.2"]',
        'name = "node-b"',
        'addresses = ["172.18.0.3"]',
        'name = "node-c"',
        'addresses = ["172.18.0.4"]',
    ]


def test_of_a_stopped_node_that_is_left_out_it_is_told_that_nobody_learns_of_it(lab: HostLab) -> None:
    named = nodes_without_a_cluster(lab, "exited")[1]
    done = lab.install("--pod-cidr", "10.9.0.0/16", "--nodes", "node-a,node-b")
    assert done.code == 0, done.err
    assert "[node-c] is exited, so the agents do not learn of it" in done.out
    assert "node-c" not in (named.folder / "peers-got").read_text()


def test_kindnet_is_not_taken_from_nodes_that_get_nothing_instead(lab: HostLab) -> None:
    lab.cluster("kind-control-plane", "kind-worker")
    done = lab.install("--replace-kindnet", "--nodes", "kind-worker")
    assert done.code == 2
    assert "--replace-kindnet takes the network from all nodes" in done.err
    assert lab.calls == []


def test_the_control_plane_is_not_uninstalled_before_the_others(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    before = [node.tree for node in nodes]
    done = lab.run("kind", "--uninstall", "--nodes", "kind-control-plane")
    assert done.code == 1
    assert "node kind-control-plane keeps what is the whole cluster's, and 1 others have podwire" in done.err
    assert [node.tree for node in nodes] == before


def test_the_cluster_keeps_its_side_until_the_last_node_is_uninstalled(lab: HostLab) -> None:
    control_plane, worker = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    assert lab.run("kind", "--uninstall", "--nodes", "kind-worker").code == 0
    assert worker.tree == []
    assert f"opt/podwire/current -> versions/{IDENTITY}" in control_plane.tree
    assert "cluster revoke" not in control_plane.calls
    done = lab.run("kind", "--uninstall", "--nodes", "kind-control-plane")
    assert done.code == 0, done.err
    assert control_plane.calls[-2:] == ["cluster revoke", "uninstall"]
    assert control_plane.tree == []


def test_what_nobody_can_take_back_is_told_with_the_command_for_it(lab: HostLab) -> None:
    lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install("--nodes", "kind-worker").code == 0
    done = lab.run("kind", "--uninstall")
    assert done.code == 0, done.err
    assert "the agent's access stays: kind-control-plane has no podwire" in done.out
    assert "kubectl delete --ignore-not-found -f conf/agent-rbac.yaml" in done.out


@pytest.mark.parametrize("value", ["a,,b", ",a", "a,"])
def test_an_empty_name_among_the_nodes_is_wrong_use(lab: HostLab, value: str) -> None:
    done = lab.install("--nodes", value)
    assert done.code == 2
    assert f"--nodes takes names with commas between them, not '{value}'" in done.err
