"""One attachment, (container id, ifname) on one network, as it is recorded, wired and reported."""

import _blake2

from cni_plugin import ipam, jsontext, nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 1
# Each veth is an Ethernet segment of its own, so every host end may have the same, constant address.
HOST_MAC = bytes((0x02, 0x70, 0x77, 0, 0, 1))
GATEWAY = bytes((169, 254, 1, 1))

_BASE32 = "0123456789abcdefghijklmnopqrstuv"


def lease_number(container_id: str, ifname: str, salt: int = 0) -> int:
    """A 64-bit hash of an attachment's key."""
    seed = f"{container_id}/{ifname}/{salt}" if salt else f"{container_id}/{ifname}"
    digest = _blake2.blake2s(seed.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def lease_id(container_id: str, ifname: str, salt: int = 0) -> str:
    """The name of record and host link: `pw` and 13 characters out of a hash, 15 in all (IFNAMSIZ - 1).

    Computable from DEL's arguments alone, so that DEL needs no state to find the link.
    """
    number = lease_number(container_id, ifname, salt)
    return "pw" + "".join(_BASE32[number >> shift & 31] for shift in range(60, -1, -5))


def link_index(lease: str, attempt: int) -> int:
    """The interface index to ask the kernel for: chosen here so that one batch can name it before it exists."""
    digest = _blake2.blake2s(f"{lease}/{attempt}".encode(), digest_size=4).digest()
    return 100_000 + (int.from_bytes(digest, "big") & 0xFFFFF)


class HostPort:
    """A port of the node that leads to a port of the pod; `host` of four zero bytes is every node address."""

    __slots__ = ("container_port", "host", "host_port", "protocol")

    def __init__(self, protocol: str, host: bytes, host_port: int, container_port: int) -> None:
        self.protocol, self.host = protocol, host
        self.host_port, self.container_port = host_port, container_port

    def __str__(self) -> str:
        return f"{self.protocol}/{ipam.format_address(self.host)}:{self.host_port}"


class Attachment:
    """Everything that is needed to remove an attachment, or to rebuild what the node holds of it."""

    __slots__ = (
        "address", "container_id", "created", "group", "host_link", "host_ports", "ifname", "mtu", "netns",
        "netns_cookie", "network", "pod", "routes",
    )  # fmt: skip

    def __init__(
        self,
        container_id: str,
        ifname: str,
        network: str,
        pod: str,
        netns: str,
        netns_cookie: int,
        host_link: str,
        group: int,
        mtu: int,
        address: bytes,
        routes: "list[str]",
        host_ports: "list[HostPort]",
        created: float,
    ) -> None:
        self.container_id, self.ifname, self.network, self.pod = container_id, ifname, network, pod
        self.netns, self.netns_cookie, self.host_link, self.group = netns, netns_cookie, host_link, group
        self.mtu, self.address, self.routes, self.host_ports = mtu, address, routes, host_ports
        self.created = created

    @property
    def lease(self) -> str:
        """The name of this attachment's record."""
        return lease_id(self.container_id, self.ifname)

    @property
    def mac(self) -> bytes:
        """The pod end's address: 0a:58 and the IPv4 address, so that one tells the other."""
        return b"\x0a\x58" + self.address

    @property
    def alias(self) -> str:
        """The host link's alias: what finds its owner when every record is lost."""
        return f"{alias_of(self.container_id, self.ifname)} {self.pod}".rstrip()

    def elements(self) -> "list[nftables.Element]":
        """The nft elements of this attachment's hostPorts."""
        ports = [(each.protocol, each.host, each.host_port, each.container_port) for each in self.host_ports]
        return nftables.host_port_elements(self.address, ports, self.lease)

    def text(self) -> str:
        """The record: one line of JSON that a person can read."""
        return jsontext.dumps(
            {
                "schema": SCHEMA,
                "containerID": self.container_id,
                "ifname": self.ifname,
                "network": self.network,
                "pod": self.pod,
                "address": ipam.format_address(self.address),
                "hostPorts": [
                    [each.protocol, ipam.format_address(each.host), each.host_port, each.container_port]
                    for each in self.host_ports
                ],
                "hostLink": self.host_link,
                "group": self.group,
                "mtu": self.mtu,
                "routes": self.routes,
                "netns": self.netns,
                "netnsCookie": self.netns_cookie,
                "created": self.created,
            }
        )


def alias_of(container_id: str, ifname: str) -> str:
    """The part of a host link's alias that names its owner."""
    return f"podwire {container_id} {ifname}"


def parse(raw: bytes) -> Attachment:
    """A record back to an attachment. Raises ValueError for garbage and for a schema it does not know."""
    try:
        record: dict[str, Any] = jsontext.loads(raw)
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']!r}, this version reads {SCHEMA}")
        return Attachment(
            record["containerID"],
            record["ifname"],
            record["network"],
            record["pod"],
            record["netns"],
            record["netnsCookie"],
            record["hostLink"],
            record["group"],
            record["mtu"],
            ipam.parse_address(record["address"]),
            record["routes"],
            [HostPort(name, ipam.parse_address(host), one, two) for name, host, one, two in record["hostPorts"]],
            record["created"],
        )
    except (KeyError, TypeError) as fault:
        raise ValueError(f"not a record: {type(fault).__name__} {fault}") from None
