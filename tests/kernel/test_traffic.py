"""Real traffic: who reaches whom, and with which source address."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.conftest import NODE_ADDRESS, OUTSIDE_ADDRESS, Node
from tests.kernel.families import IPV4, IPV6, Family, add_ipv6, both_families, every_protocol, give_ipv6
from tests.lab.netns import connect

pytestmark = pytest.mark.root


@both_families
@every_protocol
def test_pods_reach_each_other_with_their_own_addresses(node: Node, family: Family, protocol: str) -> None:
    family.use(node)
    one, two = node.pod(), node.pod()
    first, second = node.add("one", one).address, node.add("two", two).address
    node.serve(two, second, 80, protocol)
    assert node.ask(one, second, 80, protocol) == first


@both_families
@every_protocol
def test_node_and_pod_reach_each_other(node: Node, family: Family, protocol: str) -> None:
    family.use(node)
    pod = node.pod()
    address = node.add("abc", pod).address
    node.serve(pod, address, 80, protocol)
    node.serve(node.space, family.node, 81, protocol)
    assert node.ask(node.space, address, 80, protocol) == family.node
    assert node.ask(pod, family.node, 81, protocol) == address


@both_families
def test_a_pod_reaches_itself(node: Node, family: Family) -> None:
    family.use(node)
    pod = node.pod()
    address = node.add("abc", pod).address
    node.serve(pod, family.anywhere, 80)
    assert node.ask(pod, address, 80) == address
    assert node.ask(pod, family.loopback, 80) == family.loopback


@both_families
@every_protocol
def test_what_leaves_the_node_carries_its_address(node: Node, family: Family, protocol: str) -> None:
    family.use(node)
    pod = node.pod()
    node.add("abc", pod)
    node.serve(node.outside, family.outside, 90, protocol)
    assert node.ask(pod, family.outside, 90, protocol) == family.node


@both_families
def test_without_ip_masq_and_towards_exempt_subnets_the_pods_address_stays(node: Node, family: Family) -> None:
    family.use(node)
    plain, exempt = node.pod(), node.pod()
    node.outside.run(["ip", "route", "add", family.pods, "via", family.node])
    node.serve(node.outside, family.outside, 90)
    address = node.add("plain", plain, name="plain", ipMasq=False).address
    assert node.ask(plain, family.outside, 90) == address
    address = node.add("exempt", exempt).address
    assert node.ask(exempt, family.outside, 90) == family.node
    # A changed configuration applies at the next ADD, to the pods that run already too.
    subnets = ["192.0.2.0/24", "192.0.0.0/16"] if family is IPV4 else ["2001:db8:1::/64", "2001:db8::/32"]
    node.add("later", node.pod(), noMasquerade=subnets)
    assert node.ask(exempt, family.outside, 90) == address


@both_families
@every_protocol
def test_a_routed_pod_answers_the_outside_and_hides_nobody(node: Node, family: Family, protocol: str) -> None:
    family.use(node)
    pod = node.pod()
    address = node.add("abc", pod).address
    node.serve(pod, address, 80, protocol)
    # Nothing tells the outside where pods are, until somebody routes them through the node.
    assert node.refused(node.outside, address, 80, protocol)
    node.outside.run(["ip", "route", "add", family.pods, "via", family.node])
    assert node.ask(node.outside, address, 80, protocol) == family.outside


@both_families
def test_an_address_that_no_pod_has_is_refused_and_does_not_come_back(node: Node, family: Family) -> None:
    family.use(node)
    pod = node.pod()
    address = node.add("abc", pod).address
    node.outside.run(["ip", "route", "add", family.pods, "via", family.node])
    node.serve(pod, address, 80)
    assert node.ask(node.outside, address, 80) == family.outside
    assert node.call("DEL", "abc").exit_code == 0
    assert node.refused(node.outside, address, 80)


def test_a_dual_stack_pod_answers_in_both_families(node: Node) -> None:
    add_ipv6(node)
    node.config["ipam"] = {"ranges": [[{"subnet": IPV4.pods}], [{"subnet": IPV6.pods}]]}
    one, two = node.pod(), node.pod()
    first = [str(each["address"]).partition("/")[0] for each in node.add("one", one).json["ips"]]
    second = [str(each["address"]).partition("/")[0] for each in node.add("two", two).json["ips"]]
    assert [":" in address for address in first] == [False, True]
    for family, mine, theirs in zip((IPV4, IPV6), first, second, strict=True):
        node.serve(two, theirs, 80)
        assert node.ask(one, theirs, 80) == mine
        node.serve(node.outside, family.outside, 90)
        assert node.ask(one, family.outside, 90) == family.node


@both_families
def test_an_address_answers_the_moment_add_returns(node: Node, family: Family) -> None:
    family.use(node)
    node.serve(node.space, family.node, 81, "udp")
    for number in range(5):
        pod = node.pod()
        address = node.add(f"abc{number}", pod).address
        # One datagram and its answer: nothing is sent again if the first is lost to address resolution.
        assert node.ask(pod, family.node, 81, "udp") == address


@both_families
@every_protocol
def test_pods_of_two_nodes_keep_their_addresses(
    node: Node, executable: Path, tmp_path: Path, family: Family, protocol: str
) -> None:
    with ExitStack() as stack:
        (tmp_path / "other").mkdir()
        other = Node(stack, executable, tmp_path / "other")
        pods = {IPV4: ("10.244.0.0/24", "10.244.1.0/24"), IPV6: ("fd00:10:244::/112", "fd00:10:244::1:0/112")}[family]
        links = {IPV4: ("198.51.100.1", "198.51.100.2"), IPV6: ("2001:db8:5::1", "2001:db8:5::2")}[family]
        connect(node.space, "cross", "198.51.100.1/24", other.space, "cross", "198.51.100.2/24")
        for number, each in enumerate((node, other)):
            family.use(each)
            if family is IPV6:
                give_ipv6(each.space, "cross", links[number], f"fe80::{number + 1}")
            # As host-gw backends and route controllers do it.
            each.space.run(["ip", "route", "add", pods[1 - number], "via", links[1 - number]])
            each.config["ipam"] = {"ranges": [[{"subnet": pods[number]}]]}
            each.config["noMasquerade"] = ["10.244.0.0/16", "fd00:10:244::/48"]
        here, there = node.pod(), other.pod()
        mine, theirs = node.add("here", here).address, other.add("there", there).address
        other.serve(there, theirs, 80, protocol)
        assert node.ask(here, theirs, 80, protocol) == mine
        # The other node itself is no pod: towards it the node's address is what it can route back to.
        other.serve(other.space, links[1], 81, protocol)
        assert node.ask(here, links[1], 81, protocol) == links[0]


def test_a_flushed_ruleset_comes_back_with_the_next_add(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod, ("tcp", 8080, 80))
    node.serve(pod, "0.0.0.0", 80)
    node.space.run(["nft", "flush", "ruleset"])
    assert node.refused(node.outside, NODE_ADDRESS, 8080)
    node.add("next", node.pod())
    assert node.ask(node.outside, NODE_ADDRESS, 8080) == OUTSIDE_ADDRESS
    assert node.call("DEL", "abc").exit_code == 0


def test_foreign_rules_are_never_touched(node: Node) -> None:
    node.space.run(["nft", "add", "table", "inet", "foreign"])
    node.space.run(["nft", "add", "set", "inet", "foreign", "s", "{ type ipv4_addr; elements = { 10.0.0.1 } ; }"])
    before = node.space.run(["nft", "list", "table", "inet", "foreign"]).stdout
    node.add("abc", node.pod(), ("tcp", 8080, 80))
    node.call("DEL", "abc")
    assert node.space.run(["nft", "list", "table", "inet", "foreign"]).stdout == before
