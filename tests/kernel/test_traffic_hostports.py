"""Real traffic to hostPorts: from where they answer, whom they show as the caller, and where they must not."""

import pytest

from tests.kernel.conftest import Node
from tests.kernel.families import IPV4, IPV6, Family, add_ipv6, both_families, every_protocol

pytestmark = pytest.mark.root


@both_families
@every_protocol
def test_a_host_port_answers_from_everywhere(node: Node, family: Family, protocol: str) -> None:
    family.use(node)
    pod, other = node.pod(), node.pod()
    address = node.add("abc", pod, (protocol, 8080, 80)).address
    caller = node.add("other", other).address
    node.serve(pod, family.anywhere, 80, protocol)
    assert node.ask(node.outside, family.node, 8080, protocol) == family.outside
    assert node.ask(node.space, family.node, 8080, protocol) == family.node
    assert node.ask(other, family.node, 8080, protocol) == caller
    # To itself the answer comes back only when the node stands between.
    assert node.ask(pod, family.node, 8080, protocol) not in ("no answer", address)
    # The port is the node's: nobody finds it at the pod's own address.
    assert node.refused(other, address, 8080, protocol)


@every_protocol
def test_a_host_port_answers_at_the_nodes_loopback_by_ipv4_alone(node: Node, protocol: str) -> None:
    add_ipv6(node)
    node.config["ipam"] = {"ranges": [[{"subnet": IPV4.pods}], [{"subnet": IPV6.pods}]]}
    pod = node.pod()
    node.add("abc", pod, (protocol, 8080, 80))
    node.serve(pod, IPV4.anywhere, 80, protocol)
    node.serve(pod, IPV6.anywhere, 80, protocol)
    assert node.ask(node.space, "127.0.0.1", 8080, protocol) == IPV4.node
    # The kernel has no route_localnet for IPv6: what leaves for [::1] never leaves.
    assert node.refused(node.space, "::1", 8080, protocol)
    assert node.ask(node.space, IPV6.node, 8080, protocol) == IPV6.node


@both_families
@every_protocol
def test_a_host_port_with_an_address_answers_on_that_address_alone(node: Node, family: Family, protocol: str) -> None:
    family.use(node)
    node.space.run(["ip", "address", "add", f"{family.second}/{family.length}", "dev", "uplink", *nodad(family)])
    pod, other = node.pod(), node.pod()
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": protocol, "hostIP": family.second}
    node.add("abc", pod, runtimeConfig={"portMappings": [mapping]})
    caller = node.add("other", other).address
    node.serve(pod, family.anywhere, 80, protocol)
    assert node.ask(node.outside, family.second, 8080, protocol) == family.outside
    assert node.ask(other, family.second, 8080, protocol) == caller
    assert node.ask(pod, family.second, 8080, protocol) != "no answer"
    assert node.refused(node.outside, family.node, 8080, protocol)
    assert node.refused(other, family.node, 8080, protocol)


def nodad(family: Family) -> list[str]:
    """What spares an IPv6 address the seconds of duplicate detection."""
    return ["nodad"] if family is IPV6 else []


@both_families
def test_one_port_serves_two_pods_by_protocol_and_by_address(node: Node, family: Family) -> None:
    family.use(node)
    node.space.run(["ip", "address", "add", f"{family.second}/{family.length}", "dev", "uplink", *nodad(family)])
    by_tcp, by_udp, by_address = node.pod(), node.pod(), node.pod()
    node.add("tcp", by_tcp, runtimeConfig={"portMappings": [mapping("tcp", 80, family.node)]})
    node.add("udp", by_udp, ("udp", 8080, 81))
    node.add("address", by_address, runtimeConfig={"portMappings": [mapping("tcp", 82, family.second)]})
    node.serve(by_tcp, family.anywhere, 80)
    node.serve(by_udp, family.anywhere, 81, "udp")
    node.serve(by_address, family.anywhere, 82)
    for address, protocol in ((family.node, "tcp"), (family.node, "udp"), (family.second, "tcp")):
        assert node.ask(node.outside, address, 8080, protocol) == family.outside
    assert node.call("DEL", "tcp").exit_code == 0
    assert node.refused(node.outside, family.node, 8080)
    assert node.ask(node.outside, family.second, 8080) == family.outside
    assert node.ask(node.outside, family.node, 8080, "udp") == family.outside


def mapping(protocol: str, container_port: int, host_ip: str) -> dict[str, object]:
    """A hostPort 8080 of one address."""
    return {"hostPort": 8080, "containerPort": container_port, "protocol": protocol, "hostIP": host_ip}


@both_families
def test_a_freed_host_port_answers_no_more_and_serves_its_next_owner(node: Node, family: Family) -> None:
    family.use(node)
    first, second = node.pod(), node.pod()
    node.add("first", first, ("tcp", 8080, 80))
    node.call("DEL", "first", first)
    node.serve(first, family.anywhere, 80)
    assert node.refused(node.outside, family.node, 8080)
    node.add("second", second, ("tcp", 8080, 81))
    node.serve(second, family.anywhere, 81)
    assert node.ask(node.outside, family.node, 8080) == family.outside


@both_families
def test_what_a_pod_asks_of_others_at_that_port_is_left_alone(node: Node, family: Family) -> None:
    family.use(node)
    pod, other = node.pod(), node.pod()
    node.add("abc", pod, ("tcp", 8080, 80))
    address = node.add("other", other).address
    node.serve(pod, family.anywhere, 80)
    node.serve(node.outside, family.outside, 8080)
    node.serve(other, address, 8080)
    # A server outside and one in a pod have a port of this number too; both are asked, not the hostPort.
    assert node.ask(other, family.outside, 8080) == family.node
    assert node.ask(pod, address, 8080) != family.node
    assert node.ask(node.outside, family.node, 8080) == family.outside
