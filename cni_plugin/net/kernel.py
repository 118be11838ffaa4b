"""What the kernel of this node's namespace holds, read by pyroute2 and nft(8): links, routes, neighbours, elements."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyroute2 import IPRoute

from cni_plugin import nftables, nfttable, rtnetlink

GROUPS = (nftables.GROUP_MASQUERADE, nftables.GROUP_PLAIN)
ALIAS = "podwire "
# What one run of a tool may take, in seconds.
TOOL_SECONDS = 10
_FAMILIES = (2, 10)
_NUD_PERMANENT = 0x80
_MAIN = 254
_PERMANENT = 0x80
_DUMP_INTERRUPTED, _DUMPS = 0x10, 5
_PROTOCOL_RA = 9


class ToolError(Exception):
    """A program of the node could not be run, failed or took too long; the text says which and why."""


@dataclass(frozen=True)
class Link:
    """A link of the node. `elsewhere`: its peer lives in another namespace."""

    index: int
    name: str
    up: bool
    mtu: int
    group: int
    alias: str
    kind: str
    elsewhere: bool

    @property
    def ours(self) -> bool:
        """Whether podwire made it, by group or alias."""
        return self.group in GROUPS or self.alias.startswith(ALIAS)

    @property
    def key(self) -> tuple[str, str] | None:
        """Container id and interface as the alias names them, or None."""
        words = self.alias.split(" ")
        return (words[1], words[2]) if self.alias.startswith(ALIAS) and len(words) >= 3 else None


@dataclass(frozen=True)
class Route:
    """A route of the main table. `destination` is empty for a default route, else `ADDRESS/PREFIX`."""

    destination: str
    link: str
    protocol: int
    family: int
    gateway: str


@dataclass(frozen=True)
class Neighbour:
    """A permanent neighbour."""

    address: str
    link: str
    index: int


@dataclass(frozen=True)
class Kernel:
    """One reading of the namespace."""

    links: list[Link]
    routes: list[Route]
    neighbours: list[Neighbour]
    addresses: list[tuple[str, str, bool]]
    """Global addresses: (address, link, whether it has a lifetime)."""

    @cached_property
    def by_name(self) -> dict[str, Link]:
        """The links by name."""
        return {link.name: link for link in self.links}

    @cached_property
    def by_key(self) -> dict[tuple[str, str], Link]:
        """The links that name an attachment in their alias."""
        return {link.key: link for link in self.links if link.key}

    @property
    def host_routes(self) -> Iterator[Route]:
        """Routes to one address that bear podwire's protocol number."""
        for route in self.routes:
            if route.protocol == rtnetlink.ROUTE_PROTOCOL and route.destination.endswith(("/32", "/128")):
                yield route

    def way_out(self, family: int = 2) -> Link | None:
        """The link of the default route."""
        for route in self.routes:
            if not route.destination and route.family == family:
                return self.by_name.get(route.link)
        return None


def read() -> Kernel:
    """The namespace that this process is in."""
    with IPRoute() as kernel:
        links = [_link(message) for message in _dump(kernel.get_links)]
        names = {link.index: link.name for link in links}
        routes = [
            _route(message, names)
            for family in _FAMILIES
            for message in _dump(kernel.get_routes, family=family, table=_MAIN)
            if _held(message).get("RTA_TABLE", message["table"]) == _MAIN
        ]
        neighbours = [
            Neighbour(_held(message)["NDA_DST"], names.get(message["ifindex"], ""), message["ifindex"])
            for family in _FAMILIES
            for message in _dump(kernel.get_neighbours, family=family)
            if message["state"] & _NUD_PERMANENT and "NDA_DST" in _held(message)
        ]
        addresses = [
            (_held(message)["IFA_ADDRESS"], names.get(message["index"], ""), not message["flags"] & _PERMANENT)
            for family in _FAMILIES
            for message in _dump(kernel.get_addr, family=family)
            if message["scope"] == 0
        ]
    return Kernel(links, routes, neighbours, addresses)


def _dump(ask: Callable[..., Iterable[Any]], **query: int) -> list[Any]:
    """All answers, asked for again while the kernel says that what it listed changed meanwhile (NLM_F_DUMP_INTR)."""
    messages: list[Any] = []
    for _ in range(_DUMPS):
        messages = list(ask(**query))
        if not any(message["header"]["flags"] & _DUMP_INTERRUPTED for message in messages):
            break
    return messages


def _held(message: Any) -> dict[str, Any]:
    return dict(message["attrs"])


def _link(message: Any) -> Link:
    held = _held(message)
    info = dict(held["IFLA_LINKINFO"]["attrs"]) if "IFLA_LINKINFO" in held else {}
    return Link(
        message["index"],
        held["IFLA_IFNAME"],
        bool(message["flags"] & rtnetlink.IFF_UP),
        held["IFLA_MTU"],
        held.get("IFLA_GROUP", 0),
        held.get("IFLA_IFALIAS") or "",
        str(info.get("IFLA_INFO_KIND", "")),
        "IFLA_LINK_NETNSID" in held,
    )


def _route(message: Any, names: dict[int, str]) -> Route:
    held = _held(message)
    destination = f"{held['RTA_DST']}/{message['dst_len']}" if "RTA_DST" in held else ""
    link = names.get(held.get("RTA_OIF", 0), "")
    return Route(destination, link, message["proto"], message["family"], held.get("RTA_GATEWAY", ""))


def learned_by_ra(kernel: Kernel, link: str) -> bool:
    """Whether a link has a route or address that a router advertisement gave."""
    routes = any(route.protocol == _PROTOCOL_RA and route.link == link for route in kernel.routes)
    return routes or any(":" in address and name == link and lives for address, name, lives in kernel.addresses)


def run(argv: list[str], seconds: float = TOOL_SECONDS) -> str:
    """A program's standard output. Raises ToolError."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        raise ToolError(f"`{' '.join(argv)}` did not end within {seconds:g} s; it was stopped") from None
    except OSError as fault:
        raise ToolError(f"`{argv[0]}` cannot be run: {fault}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ToolError(f"`{' '.join(argv)}` failed: {said[0] if said else f'exit code {done.returncode}'}")
    return done.stdout


def nft_program() -> str | None:
    """The path of nft(8), found as the plugin finds it."""
    return nfttable.find_nft(os.environ.get("PATH", ""))


def nft(*arguments: str) -> list[dict[str, Any]]:
    """The objects that `nft -j ARGUMENTS` prints, each a dict of one. Raises ToolError; empty without nft."""
    program = nft_program()
    if program is None:
        return []
    text = run([program, "-j", *arguments])
    try:
        listed: list[dict[str, Any]] = json.loads(text)["nftables"] if text.strip() else []
    except (ValueError, KeyError, TypeError) as fault:
        raise ToolError(f"`nft -j {' '.join(arguments)}` printed what is not understood: {fault}") from None
    return listed


def table() -> list[dict[str, Any]] | None:
    """Everything in our nft table, or None where there is no such table."""
    tables = [entry["table"] for entry in nft("list", "tables") if "table" in entry]
    if not any(each["family"] == "inet" and each["name"] == nftables.TABLE for each in tables):
        return None
    return nft("list", "table", "inet", nftables.TABLE)


@dataclass(frozen=True)
class Element:
    """An element of one of our sets or maps: its key in nft's words, and its comment (a lease)."""

    set: str
    key: str
    comment: str


def elements(listed: list[dict[str, Any]]) -> list[Element]:
    """The elements that belong to attachments: all but those of the sets of destinations (nomasq)."""
    found = []
    for entry in listed:
        held = entry.get("set") or entry.get("map")
        if held is None or held["name"].startswith("nomasq"):
            continue
        for item in held.get("elem", []):
            key = item[0] if "map" in entry else item
            comment = ""
            if isinstance(key, dict) and "elem" in key:
                comment = key["elem"].get("comment", "")
                key = key["elem"]["val"]
            parts = key["concat"] if isinstance(key, dict) and "concat" in key else [key]
            found.append(Element(held["name"], " . ".join(map(str, parts)), comment))
    return found
