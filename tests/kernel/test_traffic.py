"""Real traffic: who reaches whom, and with which source address."""

import pytest

from tests.kernel.conftest import NODE_ADDRESS, OUTSIDE_ADDRESS, Node


def test_pods_reach_each_other_with_their_own_addresses(node: Node) -> None:
    one, two = node.pod(), node.pod()
    first, second = node.add("one", one).address, node.add("two", two).address
    node.serve(two, second, 80)
    assert node.ask(one, second, 80) == first


def test_node_and_pod_reach_each_other(node: Node) -> None:
    pod = node.pod()
    address = node.add("abc", pod).address
    node.serve(pod, address, 80)
    node.serve(node.space, NODE_ADDRESS, 81)
    assert node.ask(node.space, address, 80) == NODE_ADDRESS
    assert node.ask(pod, NODE_ADDRESS, 81) == address


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_what_leaves_the_node_carries_its_address(node: Node, protocol: str) -> None:
    pod = node.pod()
    node.add("abc", pod)
    node.serve(node.outside, OUTSIDE_ADDRESS, 90, protocol)
    assert node.ask(pod, OUTSIDE_ADDRESS, 90, protocol) == NODE_ADDRESS


def test_without_ip_masq_and_towards_exempt_subnets_the_pods_address_stays(node: Node) -> None:
    plain, exempt = node.pod(), node.pod()
    node.outside.run(["ip", "route", "add", "10.244.0.0/24", "via", NODE_ADDRESS])
    node.serve(node.outside, OUTSIDE_ADDRESS, 90)
    address = node.add("plain", plain, name="plain", ipMasq=False).address
    assert node.ask(plain, OUTSIDE_ADDRESS, 90) == address
    address = node.add("exempt", exempt).address
    assert node.ask(exempt, OUTSIDE_ADDRESS, 90) == NODE_ADDRESS
    # A changed configuration applies at the next ADD, to the pods that run already too.
    node.add("later", node.pod(), noMasquerade=["192.0.2.0/24", "192.0.0.0/16"])
    assert node.ask(exempt, OUTSIDE_ADDRESS, 90) == address


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_host_port_answers_from_everywhere(node: Node, protocol: str) -> None:
    pod, other = node.pod(), node.pod()
    address = node.add("abc", pod, (protocol, 8080, 80)).address
    caller = node.add("other", other).address
    node.serve(pod, "0.0.0.0", 80, protocol)
    assert node.ask(node.outside, NODE_ADDRESS, 8080, protocol) == OUTSIDE_ADDRESS
    assert node.ask(node.space, NODE_ADDRESS, 8080, protocol) == NODE_ADDRESS
    assert node.ask(node.space, "127.0.0.1", 8080, protocol) == NODE_ADDRESS
    assert node.ask(other, NODE_ADDRESS, 8080, protocol) == caller
    # To itself the answer comes back only when the node stands between.
    assert node.ask(pod, NODE_ADDRESS, 8080, protocol) not in ("no answer", address)


def test_a_host_port_with_an_address_answers_on_that_address_alone(node: Node) -> None:
    pod = node.pod()
    node.space.run(["ip", "address", "add", "192.0.2.3/24", "dev", "uplink"])
    mapping = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.3"}]
    node.add("abc", pod, runtimeConfig={"portMappings": mapping})
    node.serve(pod, "0.0.0.0", 80)
    assert node.ask(node.outside, "192.0.2.3", 8080) == OUTSIDE_ADDRESS
    assert node.ask(node.outside, NODE_ADDRESS, 8080) == "no answer"


def test_a_freed_host_port_answers_no_more_and_serves_its_next_owner(node: Node) -> None:
    first, second = node.pod(), node.pod()
    node.add("first", first, ("tcp", 8080, 80))
    node.call("DEL", "first", first)
    node.serve(first, "0.0.0.0", 80)
    assert node.ask(node.outside, NODE_ADDRESS, 8080) == "no answer"
    node.add("second", second, ("tcp", 8080, 81))
    node.serve(second, "0.0.0.0", 81)
    assert node.ask(node.outside, NODE_ADDRESS, 8080) == OUTSIDE_ADDRESS


def test_a_pod_cannot_reach_the_nodes_loopback(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod, ("tcp", 8080, 80))
    node.serve(node.space, "127.0.0.1", 5000)
    assert node.ask(node.space, "127.0.0.1", 5000) == "127.0.0.1"
    pod.run(["ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"], check=False)
    pod.run(["ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"], check=False)
    pod.run(["ip", "address", "flush", "dev", "lo"])
    pod.run(["ip", "route", "add", "127.0.0.1/32", "via", "169.254.1.1", "dev", "eth0", "onlink"])
    pod.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"])
    assert node.ask(pod, "127.0.0.1", 5000) == "no answer"


def test_a_spoofed_source_is_dropped(node: Node) -> None:
    pod, victim = node.pod(), node.pod()
    node.add("abc", pod)
    node.serve(victim, "0.0.0.0", 80, "udp")
    address = node.add("victim", victim).address
    pod.run(["ip", "address", "add", "10.77.0.1/32", "dev", "eth0"])
    node.space.run(["ip", "route", "add", "10.77.0.0/24", "via", OUTSIDE_ADDRESS])
    assert node.ask(pod, address, 80, "udp", "10.77.0.1") == "no answer"
    dropped = node.space.run(["sh", "-c", "grep -h IPReversePathFilter -A1 /proc/net/netstat | head -2"]).stdout
    names, values = (line.split() for line in dropped.splitlines())
    assert int(values[names.index("IPReversePathFilter")]) > 0


def test_a_flushed_ruleset_comes_back_with_the_next_add(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod, ("tcp", 8080, 80))
    node.serve(pod, "0.0.0.0", 80)
    node.space.run(["nft", "flush", "ruleset"])
    assert node.ask(node.outside, NODE_ADDRESS, 8080) == "no answer"
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
