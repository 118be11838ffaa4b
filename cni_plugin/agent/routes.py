"""Routes to the other nodes' pods: what the kernel has is brought to what the plan says, and nothing else is touched.

Ours are the routes of the main table that bear our protocol number. A route of anybody else to the same subnet is left
alone: where it leads to the same place it does the job, else it is a fault and ours is not made beside it. A changed
route is made beside the old one and the old one removed by its whole description, so that there is always one.
"""

import errno
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from cni_plugin.agent.plan import Route
from cni_plugin.agent.scene import FAMILIES, held
from cni_plugin.agent.settings import Address, Network

_MAIN = 254
_RTN_UNICAST = 1
_ONLINK = 4
# RT_SCOPE_NOWHERE: a removal that matches every scope.
_ANY_SCOPE = 255


@dataclass(frozen=True, slots=True)
class Installed:
    """A next hop of a route that the kernel has. `gateway` is None where it needs none, or is of another family."""

    destination: Network
    gateway: Address | None
    link: int
    protocol: int
    priority: int

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via} over link {self.link} (protocol {self.protocol})"


@dataclass(slots=True)
class Outcome:
    """What became of an application: how many wanted routes are there, how many were made and removed, and faults."""

    present: int = 0
    made: int = 0
    removed: int = 0
    faults: list[str] = field(default_factory=list)


def apply(
    ip: IPRoute, wanted: Iterable[Route], protocol: int, tunnel: int, alive: Callable[[], None] = lambda: None
) -> Outcome:
    """Bring our routes to those `wanted`; those without a link go over the link `tunnel`.

    `alive` is called after each: thousands of routes take seconds.
    """
    outcome = Outcome()
    have = read(ip)
    kept: set[Network] = set()
    for route in wanted:
        kept.add(route.destination)
        _settle(ip, route, route.link or tunnel, have.get(route.destination, []), protocol, outcome)
        alive()
    for destination, rows in have.items():
        if destination not in kept:
            for row in rows:
                if row.protocol == protocol:
                    _remove(ip, row, outcome)
    return outcome


def read(ip: IPRoute) -> dict[Network, list[Installed]]:
    """The unicast routes of the main table, a next hop each, by destination. Default routes are left out."""
    found: dict[Network, list[Installed]] = {}
    for family in FAMILIES:
        for each in ip.get_routes(family=family, table=_MAIN):
            attributes = held(each)
            if (
                each["type"] != _RTN_UNICAST
                or "RTA_DST" not in attributes
                or attributes.get("RTA_TABLE", each["table"]) != _MAIN
            ):
                continue
            destination = ipaddress.ip_network((attributes["RTA_DST"], each["dst_len"]))
            found.setdefault(destination, []).extend(_hops(destination, each["proto"], attributes))
    return found


def _hops(destination: Network, protocol: int, attributes: Mapping[str, Any]) -> list[Installed]:
    priority = attributes.get("RTA_PRIORITY", 0)
    several = attributes.get("RTA_MULTIPATH")
    if not several:
        return [Installed(destination, _gateway(attributes), attributes.get("RTA_OIF", 0), protocol, priority)]
    return [Installed(destination, _gateway(held(hop)), hop["oif"], protocol, priority) for hop in several]


def _gateway(attributes: Mapping[str, Any]) -> Address | None:
    text = attributes.get("RTA_GATEWAY")
    return ipaddress.ip_address(text) if text else None


def _settle(ip: IPRoute, route: Route, link: int, rows: list[Installed], protocol: int, outcome: Outcome) -> None:
    mine = [row for row in rows if row.protocol == protocol]
    others = [row for row in rows if row.protocol != protocol]
    right = [row for row in mine if (row.gateway, row.link) == (route.gateway, link)]
    if others:
        if any((row.gateway, row.link) == (route.gateway, link) for row in others):
            outcome.present += 1
        else:
            outcome.faults.append(
                f"route {route.destination} via {route.gateway} was not made: {others[0]} is there and not ours; "
                f"remove it with `ip route del {route.destination}` if nobody needs it"
            )
        right = []
    elif not right:
        if not _make(ip, route, link, protocol, bool(mine), outcome):
            return  # the old one may still lead somewhere
    else:
        outcome.present += 1
    for row in mine:
        if row not in right[:1]:
            _remove(ip, row, outcome)


def _make(ip: IPRoute, route: Route, link: int, protocol: int, beside: bool, outcome: Outcome) -> bool:
    if not link:
        outcome.faults.append(
            f"route {route.destination} via {route.gateway} was not made: the tunnel's link is missing"
        )
        return False
    try:
        # "add" is exclusive: of a route that somebody made since the reading, the kernel says EEXIST.
        ip.route(
            "append" if beside else "add",
            dst=str(route.destination),
            gateway=str(route.gateway),
            oif=link,
            proto=protocol,
            table=_MAIN,
            flags=0 if route.link else _ONLINK,
        )
    except NetlinkError as fault:
        outcome.faults.append(f"route {route.destination} via {route.gateway} was not made: {reason(fault)}")
        return False
    outcome.present += 1
    outcome.made += 1
    return True


def _remove(ip: IPRoute, row: Installed, outcome: Outcome) -> None:
    what: dict[str, Any] = {"dst": str(row.destination), "oif": row.link, "proto": row.protocol, "table": _MAIN}
    if row.gateway is not None:
        what["gateway"] = str(row.gateway)
    if row.priority:
        what["priority"] = row.priority
    if row.destination.version == 4:
        what["scope"] = _ANY_SCOPE
    try:
        ip.route("del", **what)
        outcome.removed += 1
    except NetlinkError as fault:
        if fault.code != errno.ESRCH:
            outcome.faults.append(f"route {row} was not removed: {reason(fault)}")


def remove_all(ip: IPRoute, protocol: int) -> Outcome:
    """Remove every route of ours."""
    return apply(ip, (), protocol, 0)


def reason(fault: NetlinkError) -> str:
    """What the kernel said, in words."""
    return str(fault.args[1]) if len(fault.args) > 1 else str(fault)
