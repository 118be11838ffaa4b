"""A minimal rtnetlink: requests as bytes, and the few questions that ADD and DEL ask.

Numbers are those of linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h, fib_rules.h and veth.h. Addresses are
packed bytes (4 for IPv4, 16 for IPv6), so that a family is the length of its address.
"""

import errno
from _struct import Struct

from cni_plugin import netlink
from cni_plugin.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Refusal, attribute, attributes, message

NETLINK_ROUTE = 0
AF_INET, AF_INET6 = 2, 10

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 4, 18, 20
IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 26, 27, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER, _IFLA_INET_CONF = 1, 2, 1, 1
_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE = 8, 1
# Positions in the kernel's ipv4_devconf, from 1 (linux/ip.h, IPV4_DEVCONF_*).
FORWARDING, SEND_REDIRECTS, RP_FILTER, ROUTE_LOCALNET = 1, 6, 8, 26

IFA_ADDRESS, IFA_LOCAL = 1, 2
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_METRICS, RTA_TABLE = 1, 4, 5, 6, 8, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
RT_TABLE_UNSPEC, RT_TABLE_MAIN, RTN_UNICAST = 0, 254, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTNH_F_ONLINK = 4
RTM_F_FIB_MATCH = 0x2000
FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL, FR_ACT_TO_TBL = 2, 6, 15, 21, 1
# Marks routes and rules as ours to readers of `ip route` (linux/rtnetlink.h leaves this range to users).
ROUTE_PROTOCOL = 112
RULE_PRIORITY = 20_000

_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBi")
_ROUTE = Struct("=BBBBBBBBI")
_NEIGHBOUR = Struct("=BxxxiHBB")
_RULE = Struct("=BBBBBBBBI")
_U32 = Struct("=I")


def _family(address: bytes) -> int:
    return AF_INET if len(address) == 4 else AF_INET6


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def new_veth(
    name: str, index: int, mac: bytes, mtu: int, group: int, peer_name: str, peer_mac: bytes, peer_netns: int
) -> bytes:
    """Make a veth pair: this end up and in `group`, the peer born in the namespace of descriptor `peer_netns`.

    Both ends get `index` (each namespace counts its own; the kernel honours the peer's only beside the host's).
    The peer cannot be up here: veth's open refuses a peer that has no partner yet.
    """
    peer = _LINK.pack(0, 0, index, 0, 0) + b"".join(
        (
            attribute(IFLA_IFNAME, _text(peer_name)),
            attribute(IFLA_ADDRESS, peer_mac),
            attribute(IFLA_MTU, _U32.pack(mtu)),
            attribute(IFLA_NET_NS_FD, _U32.pack(peer_netns)),
        )
    )
    kind = attribute(_IFLA_INFO_KIND, b"veth") + attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer))
    body = _LINK.pack(0, 0, index, IFF_UP, IFF_UP) + b"".join(
        (
            attribute(IFLA_IFNAME, _text(name)),
            attribute(IFLA_ADDRESS, mac),
            attribute(IFLA_MTU, _U32.pack(mtu)),
            attribute(IFLA_GROUP, _U32.pack(group)),
            attribute(IFLA_LINKINFO, kind),
        )
    )
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def describe_link(index: int, alias: str, ipv4: "tuple[tuple[int, int], ...]", ipv6: bool = False) -> bytes:
    """Set a link's alias (kept to 255 bytes) and its `net.ipv4.conf` values, given as (position, value).

    With `ipv6` the link also gets no link-local address of the kernel's making; the kernel takes that only after
    the link was created, and only where IPv6 exists.
    """
    conf = b"".join(attribute(position, _U32.pack(value)) for position, value in ipv4)
    families = attribute(AF_INET, attribute(_IFLA_INET_CONF, conf))
    if ipv6:
        families += _without_link_local()
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_IFALIAS, alias.encode(errors="replace")[:255])
    return message(RTM_SETLINK, 0, body + attribute(IFLA_AF_SPEC, families))


def no_link_local(index: int) -> bytes:
    """Keep the kernel from giving a link an fe80:: address once it is up."""
    return message(RTM_SETLINK, 0, _LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_AF_SPEC, _without_link_local()))


def _without_link_local() -> bytes:
    return attribute(AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes((_IN6_ADDR_GEN_MODE_NONE,))))


def link_up(index: int) -> bytes:
    """Set a link up."""
    return message(RTM_NEWLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP))


def link_down(index: int) -> bytes:
    """Set a link down."""
    return message(RTM_NEWLINK, 0, _LINK.pack(0, 0, index, 0, IFF_UP))


def delete_link(index: int) -> bytes:
    """Delete a link and, for a veth, its peer, with their addresses, routes and neighbours."""
    return message(RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))


def new_address(index: int, address: bytes, prefix: int) -> bytes:
    """Add an address to a link; an IPv6 one is usable at once, without duplicate address detection."""
    flags = IFA_F_NODAD if len(address) == 16 else 0
    body = _ADDRESS.pack(_family(address), prefix, flags, RT_SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address)
    return message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def new_route(
    index: int,
    destination: bytes,
    prefix: int,
    gateway: "bytes | None" = None,
    table: int = RT_TABLE_MAIN,
    priority: int = 0,
    metrics: "tuple[tuple[int, int], ...]" = (),
    scope: int = RT_SCOPE_UNIVERSE,
) -> bytes:
    """A route over a link: to a neighbour on it, or through `gateway`, taken as on-link without a route to it.

    Exclusive: the kernel answers EEXIST when the table has this destination (with this priority) already.
    `metrics` are pairs of RTAX_ number and value.
    """
    if gateway is None:
        scope = RT_SCOPE_LINK
    flags = 0 if gateway is None else RTNH_F_ONLINK
    short = table if table < 256 else RT_TABLE_UNSPEC
    body = _ROUTE.pack(_family(destination), prefix, 0, 0, short, ROUTE_PROTOCOL, scope, RTN_UNICAST, flags)
    if prefix:
        body += attribute(RTA_DST, destination)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway)
    body += attribute(RTA_OIF, _U32.pack(index))
    if not short:
        body += attribute(RTA_TABLE, _U32.pack(table))
    if priority:
        body += attribute(RTA_PRIORITY, _U32.pack(priority))
    if metrics:
        body += attribute(RTA_METRICS, b"".join(attribute(kind, _U32.pack(value)) for kind, value in metrics))
    return message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def source_rule(kind: int, address: bytes, table: int) -> bytes:
    """RTM_NEWRULE or RTM_DELRULE of `from ADDRESS lookup TABLE`; our rules stand before the main table's."""
    body = _RULE.pack(_family(address), 0, len(address) * 8, 0, RT_TABLE_UNSPEC, 0, 0, FR_ACT_TO_TBL, 0)
    body += attribute(FRA_SRC, address) + attribute(FRA_TABLE, _U32.pack(table))
    body += attribute(FRA_PRIORITY, _U32.pack(RULE_PRIORITY)) + attribute(FRA_PROTOCOL, bytes((ROUTE_PROTOCOL,)))
    return message(kind, NLM_F_CREATE if kind == RTM_NEWRULE else 0, body)


def new_neighbour(index: int, address: bytes, mac: bytes) -> bytes:
    """A permanent neighbour, so that neither end ever waits for ARP."""
    body = _NEIGHBOUR.pack(_family(address), index, NUD_PERMANENT, 0, 0)
    body += attribute(NDA_DST, address) + attribute(NDA_LLADDR, mac)
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


class Link:
    """What RTM_GETLINK tells of a link that this plugin asks about."""

    __slots__ = ("alias", "flags", "group", "index", "mac", "mtu", "name")

    def __init__(self, body: bytes) -> None:
        _, _, self.index, self.flags, _ = _LINK.unpack_from(body)
        found = attributes(body, _LINK.size)
        self.name = found[IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")
        self.mac = found.get(IFLA_ADDRESS, b"")
        self.mtu: int = _U32.unpack(found[IFLA_MTU])[0]
        self.group: int = _U32.unpack(found[IFLA_GROUP])[0]
        self.alias = found.get(IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")


class Match:
    """What RTM_GETROUTE tells of a route: prefix length, link (0 where it has none), gateway, its own MTU or 0."""

    __slots__ = ("gateway", "index", "mtu", "prefix")

    def __init__(self, body: bytes) -> None:
        found = attributes(body, _ROUTE.size)
        self.prefix: int = body[1]
        self.index: int = _U32.unpack(found[RTA_OIF])[0] if RTA_OIF in found else 0
        self.gateway = found.get(RTA_GATEWAY, b"")
        metrics = attributes(found.get(RTA_METRICS, b""), 0)
        self.mtu: int = _U32.unpack(metrics[RTAX_MTU])[0] if RTAX_MTU in metrics else 0


class Socket(netlink.Socket):
    """An rtnetlink socket (or, with another `protocol`, one of that netlink family)."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        super().__init__(protocol)

    def link(self, name: str) -> "Link | None":
        """The link of this name, or None."""
        return self._link(_LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _text(name)))

    def link_at(self, index: int) -> "Link | None":
        """The link of this index, or None."""
        return self._link(_LINK.pack(0, 0, index, 0, 0))

    def _link(self, body: bytes) -> "Link | None":
        try:
            return Link(self.ask(message(RTM_GETLINK, 0, body)))
        except Refusal as fault:
            if fault.errno == errno.ENODEV:
                return None
            raise

    def route(self, destination: bytes) -> "Match | None":
        """The entry of the routing tables that traffic to `destination` matches, or None where none does."""
        body = _ROUTE.pack(_family(destination), len(destination) * 8, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
        try:
            return Match(self.ask(message(RTM_GETROUTE, 0, body + attribute(RTA_DST, destination))))
        except Refusal as fault:
            if fault.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH, errno.EACCES, errno.EINVAL):
                return None
            raise
