"""Pods of different nodes talk, and see each other's own addresses: every mode, family and underlay."""

import sys
from dataclasses import dataclass

import pytest

from tests.agent.conftest import FAR, Cluster, ClusterNode

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Case:
    """What the agents are told, the families of pods, and those of the nodes' addresses."""

    mode: str
    pods: tuple[int, ...]
    nodes: tuple[int, ...]

    def __str__(self) -> str:
        words = {(4,): "ipv4", (6,): "ipv6", (4, 6): "dual"}
        return f"{self.mode}-{words[self.pods]}-over-{words[self.nodes]}"


CASES = [
    Case("host-gw", (4,), (4,)),
    Case("host-gw", (6,), (6,)),
    Case("host-gw", (4, 6), (4, 6)),
    *(Case("vxlan", pods, (4,)) for pods in ((4,), (6,), (4, 6))),
    Case("vxlan", (4, 6), (6,)),
    # The one before holds both.
    *(pytest.param(Case("vxlan", pods, (6,)), marks=pytest.mark.soak) for pods in ((4,), (6,))),
]


def narrow(cluster: Cluster, case: Case) -> None:
    """Nodes and pods of these families alone."""
    for node in cluster.nodes.values():
        node.subnets = [each for each in node.subnets if (6 if ":" in each else 4) in case.pods]
        node.config["ipam"] = {"ranges": [[{"subnet": each}] for each in node.subnets]}
    cluster.write_peers(
        *(
            cluster.entry(name, [node.v4] * (4 in case.nodes) + [node.v6] * (6 in case.nodes))
            for name, node in cluster.nodes.items()
        )
    )


def talk(cluster: Cluster, first: ClusterNode, second: ClusterNode) -> None:
    """A pod on each, and a conversation in every family they have."""
    pod, addresses = first.add_pod()
    other, others = second.add_pod()
    for source, address in zip(addresses, others, strict=True):
        cluster.talks(pod, second, other, address, source)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pods_talk_with_their_own_addresses(cluster: Cluster, case: Case) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    narrow(cluster, case)
    cluster.start_agents(mode=case.mode)
    talk(cluster, a, b)
    for route in a.wait_routes(*b.subnets).values():
        assert ("dev pwvxlan0" in route) is (case.mode == "vxlan"), route


def test_auto_takes_the_link_where_there_is_one_and_the_tunnel_elsewhere(cluster: Cluster) -> None:
    a, b, c = cluster.node("a"), cluster.node("b"), cluster.node("c", FAR)
    cluster.write_peers()
    cluster.start_agents(mode="auto")
    pods = {node.name: node.add_pod() for node in (a, b, c)}
    for node in (b, c):
        for address in pods[node.name][1]:
            node.serve(pods[node.name][0], address, 8080)
    for asking, serving in ((a, b), (a, c), (c, b)):
        for source, address in zip(pods[asking.name][1], pods[serving.name][1], strict=True):
            assert asking.ask(pods[asking.name][0], address, 8080) == source, asking.told() + serving.told()
    assert {each.partition(" dev ")[2].split()[0] for each in a.routes().values()} == {"uplink", "pwvxlan0"}
    assert {each.partition(" dev ")[2].split()[0] for each in c.routes().values()} == {"pwvxlan0"}


def test_host_gw_says_which_node_shares_no_link(cluster: Cluster) -> None:
    a, b, c = cluster.node("a"), cluster.node("b"), cluster.node("c", FAR)
    cluster.write_peers()
    a.start_agent(mode="host-gw")
    a.wait_ready()
    a.wait_routes(*b.subnets)
    assert f"node c: pod CIDR {c.subnets[0]} has no route: none of its IPv4 addresses is on a link" in a.told()
    assert a.metric('podwire_agent_faults{part="nodes"}') == 2


def test_a_pod_made_behind_the_tunnel_has_its_mtu_and_large_packets_pass(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.write_peers()
    cluster.start_agents(mode="vxlan")
    a.config["noMasquerade"] = b.config["noMasquerade"] = ["10.244.0.0/16"]
    pod, _ = a.add_pod()
    other, addresses = b.add_pod()
    assert a.witness(pod)["links"]["eth0"]["mtu"] == 1450
    b.serve(other, addresses[0], 8080, "udp")
    # The largest packet that need not be cut, and must not be: IP_MTU_DISCOVER is 10, IP_PMTUDISC_DO 2.
    largest = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(5); s.setsockopt(0, 10, 2);"
        "s.connect((sys.argv[1], 8080)); s.send(bytes(1450 - 28)); print(s.recv(99).decode())"
    )
    assert pod.run([sys.executable, "-c", largest, addresses[0]]).stdout.strip() == "10.244.1.1", a.told()
