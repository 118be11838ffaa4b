"""What a key of the configuration may hold: rows of (key, attribute, parser), and the parsers.

A parser takes what TOML gave and returns a value, or raises ValueError with the rest of a sentence that begins with
the key ("must be a string, not a number (5)").
"""

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# dev_valid_name of the kernel, without the odd characters it takes; 15 bytes.
_LINK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\Z")
# Names of objects in Kubernetes are DNS subdomains (RFC 1123).
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
# linux/rtnetlink.h and /etc/iproute2/rt_protos: the kernel's, and daemons that own their number.
TAKEN_PROTOCOLS = {
    1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra", 12: "bird",
    13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel", 80: "Calico",
    84: "ovn", 99: "openr", 112: "podwire's plugin", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its place in the file, the attribute it fills, and what makes a value of it."""

    key: str
    attribute: str
    parse: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and port to listen on."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def is_node_name(name: str) -> bool:
    """Whether Kubernetes would take this as the name of a node."""
    return bool(_NODE_NAME.match(name))


def node_name(value: Any) -> str:
    """The name of a node, or empty."""
    if text(value) and not is_node_name(value):
        raise ValueError(f"must be a node's name, of small letters, digits, '-' and '.', not {value!r}")
    return str(value)


def text(value: Any) -> str:
    """Any string."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {type_name(value)}")
    return value


def path(value: Any) -> str:
    """An absolute path."""
    if not text(value).startswith("/"):
        raise ValueError(f"must be an absolute path, not {value!r}")
    return str(value)


def boolean(value: Any) -> bool:
    """true or false, and nothing that only resembles them."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def seconds(least: float, most: float, *, off: bool = False) -> Callable[[Any], float]:
    """A finite number of seconds within both bounds; with `off` also 0."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number of seconds, not {type_name(value)}")
        if off and value == 0:
            return 0.0
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"must be {'0 or ' if off else ''}from {least:g} to {most:g} seconds, not {value:g}")
        return float(value)

    return parse


def whole(least: int, most: int, *, off: bool = False) -> Callable[[Any], int]:
    """A whole number within both bounds; with `off` also 0."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {type_name(value)}")
        if not (off and value == 0) and not least <= value <= most:
            raise ValueError(f"must be {'0 or ' if off else ''}from {least} to {most}, not {value}")
        return value

    return parse


def choice(*words: str) -> Callable[[Any], str]:
    """One of these words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be {' or '.join(map(repr, words))}, not {value!r}")
        return str(value)

    return parse


def networks(value: Any) -> tuple[Network, ...]:
    """A list of subnets without host bits."""
    return tuple(_each(value, "subnets", "10.244.0.0/16", subnet))


def subnet(value: str) -> Network:
    """A subnet without host bits."""
    if "/" not in value:
        raise ValueError(f"{value!r} has no prefix length")
    return ipaddress.ip_network(value)


def addresses(value: Any) -> tuple[Address, ...]:
    """A list of addresses."""
    return tuple(_each(value, "addresses", "172.18.0.2", ipaddress.ip_address))


def _each(value: Any, what: str, example: str, parse: Callable[[str], Any]) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f'must be a list of {what} such as ["{example}"], not {type_name(value)}')
    try:
        return [parse(one) for one in value]
    except ValueError as fault:
        raise ValueError(f'must be a list of {what} such as ["{example}"]: {fault}') from None


def link_name(value: Any) -> str:
    """A name that a link can have."""
    if not _LINK_NAME.match(text(value)):
        raise ValueError(f"must be a link's name, 1 to 15 letters, digits, '_', '.' and '-', not {value!r}")
    return str(value)


def protocol(value: Any) -> int:
    """The number of a route's maker that is nobody else's."""
    number = whole(5, 254)(value)
    if number in TAKEN_PROTOCOLS:
        raise ValueError(f"must be a number of our own; {number} is taken by {TAKEN_PROTOCOLS[number]}")
    return number


def endpoint(value: Any) -> Endpoint | None:
    """ADDRESS:PORT or [ADDRESS]:PORT; None for the empty text."""
    if not text(value):
        return None
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        version = ipaddress.ip_address(bare).version
        if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise ValueError
        if (version == 6) is (bare == host):
            raise ValueError
    except ValueError:
        raise ValueError(f"must be ADDRESS:PORT or [ADDRESS]:PORT such as 127.0.0.1:9474, not {value!r}") from None
    return Endpoint(bare, int(port))


def type_name(value: Any) -> str:
    """What a fault calls a value."""
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"
