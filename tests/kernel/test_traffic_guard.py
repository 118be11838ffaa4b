"""Real traffic that must not arrive: foreign sources, the node's loopback, false routers."""

import pytest

from tests.kernel.conftest import Node
from tests.kernel.families import IPV4, IPV6, Family, both_families
from tests.lab.netns import Namespace

pytestmark = pytest.mark.root


@both_families
@pytest.mark.parametrize("whose", ["a stranger's", "another pod's", "the node's"])
def test_a_spoofed_source_is_dropped(node: Node, family: Family, whose: str) -> None:
    family.use(node)
    pod, victim, other = node.pod(), node.pod(), node.pod()
    own = node.add("abc", pod).address
    address, third = node.add("victim", victim).address, node.add("other", other).address
    source = {"a stranger's": family.stranger, "another pod's": third, "the node's": family.node}[whose]
    listener = node.serve(victim, family.anywhere, 80, "udp")
    pod.run(["ip", "address", "add", source, "dev", "eth0", *(["nodad"] if family is IPV6 else [])])
    # Somewhere that would answer the stranger: only the reverse path is wrong.
    node.space.run(["ip", "route", "add", family.stranger, "via", family.outside])
    before = received(victim, family)
    assert node.refused(pod, address, 80, "udp", source)
    assert received(victim, family) == before
    assert listener.running
    # The pod's own source is none of that.
    assert node.ask(pod, address, 80, "udp", own) == own
    assert received(victim, family) == before + 1


def received(space: Namespace, family: Family) -> int:
    """How many UDP datagrams a namespace's sockets were given."""
    name = "/proc/net/snmp" if family is IPV4 else "/proc/net/snmp6"
    text = space.run(["cat", name]).stdout
    if family is IPV4:
        names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
        return int(values[names.index("InDatagrams")])
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Udp6InDatagrams"))


@pytest.mark.parametrize("ports", [[], [("tcp", 8080, 80)]], ids=["without hostPorts", "with a hostPort"])
def test_a_pod_cannot_reach_the_nodes_loopback(node: Node, ports: list[tuple[str, int, int]]) -> None:
    pod = node.pod()
    node.add("abc", pod, *ports)
    node.serve(node.space, "127.0.0.1", 5000)
    assert node.ask(node.space, "127.0.0.1", 5000) == "127.0.0.1"
    for route in ("127.0.0.0/8", "127.0.0.1"):
        pod.run(["ip", "route", "del", "local", route, "dev", "lo", "table", "local"], check=False)
    pod.run(["ip", "address", "flush", "dev", "lo"])
    pod.run(["ip", "route", "add", "127.0.0.1/32", "via", "169.254.1.1", "dev", "eth0", "onlink"])
    pod.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"])
    assert node.refused(pod, "127.0.0.1", 5000)
    # What the pod may reach is answered: the way is open, the door is shut.
    node.serve(node.space, IPV4.node, 5001)
    assert node.ask(pod, IPV4.node, 5001) != "no answer"


@pytest.mark.parametrize("ports", [[], [("tcp", 8080, 80)]], ids=["without hostPorts", "with a hostPort"])
def test_a_pod_cannot_reach_the_nodes_ipv6_loopback(node: Node, ports: list[tuple[str, int, int]]) -> None:
    IPV6.use(node)
    pod = node.pod()
    node.add("abc", pod, *ports)
    node.serve(node.space, "::1", 5000)
    assert node.ask(node.space, "::1", 5000) == "::1"
    pod.run(["ip", "-6", "address", "flush", "dev", "lo"])
    pod.run(["ip", "route", "add", "::1/128", "via", "fe80::1", "dev", "eth0", "onlink"], check=False)
    assert node.refused(pod, "::1", 5000)


@pytest.mark.parametrize("defence", ["the table", "the link's own setting"])
def test_a_pod_makes_itself_no_router_of_the_node(node: Node, defence: str) -> None:
    IPV6.use(node)
    # As on nodes whose uplinks take their default route from advertisements though they forward.
    node.space.run(["sh", "-c", "echo 2 > /proc/sys/net/ipv6/conf/default/accept_ra"])
    pod = node.pod()
    node.add("abc", pod)
    (link,) = (name for name in node.witness(node.space)["links"] if name.startswith("pw"))
    if defence == "the table":
        node.space.run(["sh", "-c", f"echo 2 > /proc/sys/net/ipv6/conf/{link}/accept_ra"])
    else:
        node.space.run(["nft", "flush", "ruleset"])
    pod.run(["ip", "address", "add", "fe80::66/64", "dev", "eth0", "nodad"])
    pod.run(["python3", "-c", _ADVERTISEMENT])
    # Delivered in order: when this later datagram has arrived, so has the advertisement.
    node.serve(node.space, IPV6.node, 81, "udp")
    assert node.ask(pod, IPV6.node, 81, "udp") != "no answer"
    assert f"dev {link} proto ra" not in node.space.run(["ip", "-6", "route", "show"]).stdout


# ICMPv6 type 134 to all nodes: a router with lifetime 1800 s, hop limit 255 as the kernel demands.
_ADVERTISEMENT = """\
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
s.bind(("fe80::66", 0, 0, socket.if_nametoindex("eth0")))
s.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0))
"""
