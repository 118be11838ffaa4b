"""What CHECK and GC read back: dumps of links, addresses, routes, rules and neighbours."""

import errno

from cni_plugin.netlink import NLM_F_DUMP, Refusal, attribute, attributes, message
from cni_plugin.rtnetlink import (
    _ADDRESS,
    _LINK,
    _NEIGHBOUR,
    _ROUTE,
    _RULE,
    _U32,
    FRA_SRC,
    FRA_TABLE,
    IFA_ADDRESS,
    IFA_LOCAL,
    NDA_DST,
    NDA_LLADDR,
    RTA_DST,
    RTA_GATEWAY,
    RTA_METRICS,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTAX_ADVMSS,
    RTAX_MTU,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_GETRULE,
    Link,
    Socket,
    _family,
)

_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12


class Route:
    """One route of a dump. `destination` is empty for a default route; numbers that are absent are 0."""

    __slots__ = ("advmss", "destination", "gateway", "index", "mtu", "prefix", "priority", "protocol", "scope", "table")

    def __init__(self, body: bytes) -> None:
        found = attributes(body, _ROUTE.size)
        metrics = attributes(found.get(RTA_METRICS, b""), 0)
        self.destination = found.get(RTA_DST, b"")
        self.prefix, self.protocol, self.scope = body[1], body[5], body[6]
        self.gateway = found.get(RTA_GATEWAY, b"")
        self.index = _number(found, RTA_OIF)
        self.table = _number(found, RTA_TABLE) or body[4]
        self.priority = _number(found, RTA_PRIORITY)
        self.mtu, self.advmss = _number(metrics, RTAX_MTU), _number(metrics, RTAX_ADVMSS)


def _number(found: "dict[int, bytes]", kind: int) -> int:
    value: int = _U32.unpack(found[kind])[0] if kind in found else 0
    return value


def links(socket: Socket) -> "list[Link]":
    """All links of the socket's namespace."""
    return [Link(body) for body in socket.dump(message(RTM_GETLINK, NLM_F_DUMP, _LINK.pack(0, 0, 0, 0, 0)))]


def routes(socket: Socket, family: int) -> "list[Route]":
    """All routes of a family, of every table."""
    return [
        Route(body)
        for body in socket.dump(message(RTM_GETROUTE, NLM_F_DUMP, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)))
    ]


def source_rules(socket: Socket, family: int) -> "list[tuple[bytes, int]]":
    """The rules that choose a table by source address: (address, table)."""
    found = []
    for body in socket.dump(message(RTM_GETRULE, NLM_F_DUMP, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))):
        held = attributes(body, _RULE.size)
        if FRA_SRC in held:
            found.append((held[FRA_SRC], _number(held, FRA_TABLE) or body[4]))
    return found


def neighbour(socket: Socket, index: int, address: bytes) -> "bytes | None":
    """The link-layer address that the link's neighbour table holds for `address`, or None."""
    body = _NEIGHBOUR.pack(_family(address), index, 0, 0, 0) + attribute(NDA_DST, address)
    try:
        answer = socket.ask(message(RTM_GETNEIGH, 0, body))
    except Refusal as fault:
        if fault.errno == errno.ENOENT:
            return None
        raise
    return attributes(answer, _NEIGHBOUR.size).get(NDA_LLADDR)


def addresses(socket: Socket, index: int) -> "list[tuple[bytes, int, int]]":
    """The addresses of a link: (address, prefix length, IFA_F_ flags)."""
    # Without strict checking the kernel ignores the index in the header and dumps every link.
    socket.raw.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
    found = []
    try:
        for body in socket.dump(message(RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(0, 0, 0, 0, index))):
            held = attributes(body, _ADDRESS.size)
            found.append((held.get(IFA_LOCAL) or held[IFA_ADDRESS], body[1], body[2]))
    finally:
        socket.raw.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 0)
    return found
