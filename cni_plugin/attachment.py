"""One attachment, (container id, ifname) on one network, as it is recorded, wired and reported."""

import _blake2

from cni_plugin import ipam, jsontext, nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 2
# Each veth is an Ethernet segment of its own, so every host end may have the same, constant address.
HOST_MAC = bytes((0x02, 0x70, 0x77, 0, 0, 1))
# What a pod takes for its gateway where the configuration names none; nobody holds them, by address width.
GATEWAYS = {4: bytes((169, 254, 1, 1)), 16: b"\xfe\x80" + bytes(13) + b"\x01"}

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


def derived_mac(address: bytes) -> bytes:
    """A pod end's MAC: 0a:58 and the IPv4 address, so that one tells the other, or a hash of the IPv6 one."""
    return b"\x0a\x58" + (address if len(address) == 4 else _blake2.blake2s(address, digest_size=4).digest())


class HostPort:
    """A port of the node that leads to a port of the pod; a `host` of zero bytes is every node address.

    The width of `host` (4 or 16) says for which family.
    """

    __slots__ = ("container_port", "host", "host_port", "protocol")

    def __init__(self, protocol: str, host: bytes, host_port: int, container_port: int) -> None:
        self.protocol, self.host = protocol, host
        self.host_port, self.container_port = host_port, container_port

    def __str__(self) -> str:
        host = ipam.format_address(self.host)
        return f"{self.protocol}/{f'[{host}]' if len(self.host) == 16 else host}:{self.host_port}"


class Address:
    """One address of an attachment and the gateway that its pod uses for it, both as packed bytes."""

    __slots__ = ("gateway", "packed")

    def __init__(self, packed: bytes, gateway: bytes = b"") -> None:
        self.packed, self.gateway = packed, gateway or GATEWAYS[len(packed)]

    @property
    def prefix(self) -> int:
        """A single address: 32 or 128."""
        return len(self.packed) * 8

    def __str__(self) -> str:
        return ipam.format_address(self.packed)


class Attachment:
    """Everything that is needed to remove an attachment, or to rebuild what the node holds of it.

    `routes` are those of the pod as a result writes them (`dst`, `gw`, and the attributes of CNI 1.1.0). `table`
    is the routing table of a pod's second interface, 0 for the first. `sticky` keeps the addresses for the same pod
    to come: a key and for how many seconds, or None. `host_link` is empty behind another plugin, whose interface
    and addresses these are.
    """

    __slots__ = (
        "addresses", "container_id", "created", "group", "host_link", "host_ports", "ifname", "mac", "mtu", "netns",
        "netns_cookie", "network", "pod", "routes", "sticky", "table",
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
        mac: bytes,
        addresses: "list[Address]",
        routes: "list[dict[str, Any]]",
        table: int,
        host_ports: "list[HostPort]",
        sticky: "tuple[str, int] | None",
        created: float,
    ) -> None:
        self.container_id, self.ifname, self.network, self.pod = container_id, ifname, network, pod
        self.netns, self.netns_cookie, self.host_link, self.group = netns, netns_cookie, host_link, group
        self.mtu, self.mac, self.addresses, self.routes, self.table = mtu, mac, addresses, routes, table
        self.host_ports, self.sticky, self.created = host_ports, sticky, created

    @property
    def lease(self) -> str:
        """The name of this attachment's record."""
        return lease_id(self.container_id, self.ifname)

    @property
    def alias(self) -> str:
        """The host link's alias: what finds its owner when every record is lost."""
        return f"{alias_of(self.container_id, self.ifname)} {self.pod}".rstrip()

    @property
    def texts(self) -> "list[str]":
        """The addresses in text form."""
        return [str(each) for each in self.addresses]

    def own_addresses(self) -> "list[str]":
        """The addresses that are claimed for it: none behind another plugin, which made link and addresses."""
        return self.texts if self.host_link else []

    def has_ipv6(self) -> bool:
        """Whether one of the addresses is IPv6."""
        return any(len(each.packed) == 16 for each in self.addresses)

    def elements(self) -> "list[nftables.Element]":
        """The nft elements of this attachment's hostPorts."""
        elements: list[nftables.Element] = []
        for width in (4, 16):
            ports = [
                (each.protocol, each.host, each.host_port, each.container_port)
                for each in self.host_ports
                if len(each.host) == width
            ]
            address = next((each.packed for each in self.addresses if len(each.packed) == width), b"")
            if ports and address:
                elements += nftables.host_port_elements(address, ports, self.lease)
        return elements

    def text(self) -> str:
        """The record: one line of JSON that a person can read."""
        return jsontext.dumps(
            {
                "schema": SCHEMA,
                "containerID": self.container_id,
                "ifname": self.ifname,
                "network": self.network,
                "pod": self.pod,
                "addresses": [[str(each), ipam.format_address(each.gateway)] for each in self.addresses],
                "hostPorts": [
                    [each.protocol, ipam.format_address(each.host), each.host_port, each.container_port]
                    for each in self.host_ports
                ],
                "hostLink": self.host_link,
                "group": self.group,
                "mtu": self.mtu,
                "mac": self.mac.hex(":"),
                "routes": self.routes,
                "table": self.table,
                "sticky": list(self.sticky) if self.sticky else None,
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
        for key, kind in _TYPES.items():
            if not isinstance(record[key], kind):
                raise TypeError(f"{key} {record[key]!r}")
            if kind is str:
                record[key].encode("utf-8", "surrogateescape")
        for key in ("group", "mtu", "table"):
            if not 0 <= record[key] < 1 << 32:
                raise ValueError(f"{key} {record[key]!r}")
        for route in record["routes"]:
            ipam.parse_subnet(route["dst"])
            ipam.parse_address(route["gw"])
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
            _mac(record["mac"]),
            [Address(ipam.parse_address(one), ipam.parse_address(gateway)) for one, gateway in record["addresses"]],
            record["routes"],
            record["table"],
            [_host_port(*each) for each in record["hostPorts"]],
            (str(record["sticky"][0]), int(record["sticky"][1])) if record["sticky"] else None,
            record["created"],
        )
    except (AttributeError, IndexError, KeyError, TypeError) as fault:
        raise ValueError(f"not a record: {type(fault).__name__} {fault}") from None


_TYPES: "dict[str, Any]" = {
    "containerID": str,
    "ifname": str,
    "network": str,
    "pod": str,
    "netns": str,
    "netnsCookie": int,
    "hostLink": str,
    "group": int,
    "mtu": int,
    "mac": str,
    "addresses": list,
    "routes": list,
    "table": int,
    "hostPorts": list,
    "created": (int, float),
}


def _host_port(protocol: str, host: str, host_port: int, container_port: int) -> HostPort:
    ports = (host_port, container_port)
    if protocol not in nftables.PROTOCOLS or not all(isinstance(port, int) and 0 < port < 65536 for port in ports):
        raise ValueError(f"hostPort {protocol!r} {host_port!r} {container_port!r}")
    return HostPort(protocol, ipam.parse_address(host), host_port, container_port)


def _mac(text: str) -> bytes:
    mac = bytes.fromhex(text.replace(":", ""))
    if len(mac) not in (0, 6):
        raise ValueError(f"mac {text!r}")
    return mac
