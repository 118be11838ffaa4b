"""What a test of real traffic says in IPv4 and IPv6 alike, and the node's addresses in both."""

import dataclasses

import pytest

from tests.kernel.conftest import NODE_ADDRESS, OUTSIDE_ADDRESS, Node
from tests.lab.netns import Namespace


@dataclasses.dataclass(frozen=True)
class Family:
    """One family's addresses: of the node and its neighbour outside, of pods, and of nobody."""

    name: str
    node: str
    second: str
    outside: str
    length: int
    pods: str
    anywhere: str
    loopback: str
    stranger: str

    def __str__(self) -> str:
        return self.name

    def use(self, node: Node) -> None:
        """Give the node (and the outside) this family's addresses, and its pods this family's range alone."""
        if self is IPV6:
            add_ipv6(node)
        node.config["ipam"] = {"ranges": [[{"subnet": self.pods}]]}


IPV4 = Family(
    "ipv4",
    NODE_ADDRESS,
    "192.0.2.3",
    OUTSIDE_ADDRESS,
    24,
    "10.244.0.0/24",
    "0.0.0.0",
    "127.0.0.1",
    "10.77.0.1",
)
IPV6 = Family(
    "ipv6",
    "2001:db8:1::2",
    "2001:db8:1::3",
    "2001:db8:1::1",
    64,
    "fd00:10:244::/112",
    "::",
    "::1",
    "fd00:77::1",
)

both_families = pytest.mark.parametrize("family", [IPV4, IPV6], ids=str)
every_protocol = pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])


def add_ipv6(node: Node) -> None:
    """IPv6 addresses beside the node's IPv4 ones, and a default route."""
    give_ipv6(node.space, "uplink", IPV6.node, "fe80::2")
    give_ipv6(node.outside, "node", IPV6.outside, "fe80::1")
    node.space.run(["ip", "route", "add", "default", "via", IPV6.outside])


def give_ipv6(space: Namespace, name: str, address: str, link_local: str) -> None:
    """Give a link that `connect` made an address, without the seconds of duplicate detection.

    A router asks for its neighbours in the name of a link-local address, and not at all without one.
    """
    for each in (f"{address}/{IPV6.length}", f"{link_local}/64"):
        space.run(["ip", "address", "add", each, "dev", name, "nodad"])
