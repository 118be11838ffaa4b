"""Dual-stack pods of a real containerd, and what a pod may ask for by annotation."""

import ipaddress
from collections.abc import Iterator

import pytest

from tests.lab.containerd import ContainerdBinary
from tests.lab.cri import Port
from tests.lab.node import Node, conflist
from tests.lab.traffic import get_from_container, get_from_namespace

PAGE = "hello from podwire"
SERVE = "exec httpd -f -p 8080 -h /www"
WAIT = "exec sleep 3600"
NODE_ADDRESS, OUTSIDE_ADDRESS = "2001:db8::10", "2001:db8::20"
SUBNETS = ("10.244.0.0/24", "fd00:10:244::/64")


@pytest.fixture(scope="module")
def shared_node(usable: ContainerdBinary) -> Iterator[Node]:
    """A node whose pods have both families, with an IPv6 way out."""
    configuration = conflist(
        ipam={"ranges": [[{"subnet": subnet}] for subnet in SUBNETS]},
        capabilities={"portMappings": True, "io.kubernetes.cri.pod-annotations": True},
    )
    with Node(usable, configuration=configuration) as node:
        for space, link, address in ((node.namespace, "up0", NODE_ADDRESS), (node.outside, "out0", OUTSIDE_ADDRESS)):
            space.run(["ip", "address", "add", f"{address}/64", "dev", link, "nodad"])
        # What the first pod would bring along: a forwarding node listens to its subnets' anycast addresses.
        node.namespace.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
        yield node


def addresses(node: Node, sandbox: str) -> list[str]:
    network = node.cri.call("PodSandboxStatus", pod_sandbox_id=sandbox).status.network
    return [network.ip, *(each.ip for each in network.additional_ips)]


def test_kubelet_is_told_an_address_of_each_family(node: Node) -> None:
    found = addresses(node, node.run_pod("pod").id)
    assert len(found) == 2
    for address, subnet in zip(found, SUBNETS, strict=True):
        assert ipaddress.ip_address(address) in ipaddress.ip_network(subnet)


def test_a_pod_reaches_another_over_ipv6(node: Node) -> None:
    client, server = node.run_pod("client"), node.run_pod("server")
    node.run_tools(server, "httpd", SERVE)
    container = node.run_tools(client, "shell", WAIT)
    assert PAGE in get_from_container(node, container, addresses(node, server.id)[1], 8080)


def test_a_host_port_answers_on_both_addresses_of_the_node(node: Node) -> None:
    server = node.run_pod("server", ports=[Port(8080, 18080)])
    node.run_tools(server, "httpd", SERVE)
    assert PAGE in get_from_namespace(node.outside, NODE_ADDRESS, 18080)
    assert PAGE in get_from_namespace(node.outside, "198.51.100.10", 18080)


def test_a_pod_asks_for_its_addresses_and_keeps_them_by_annotation(node: Node) -> None:
    asked = {"podwire.dev/ips": "10.244.0.99,fd00:10:244::99", "podwire.dev/sticky": "name"}
    first = node.run_pod("db-0", annotations=asked)
    assert addresses(node, first.id) == ["10.244.0.99", "fd00:10:244::99"]
    node.remove_pod(first)
    again = node.run_pod("db-0", annotations={"podwire.dev/sticky": "name"})
    assert addresses(node, again.id) == ["10.244.0.99", "fd00:10:244::99"]
