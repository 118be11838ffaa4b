"""A minimal rtnetlink: requests as bytes, one socket, one `sendmsg` for a batch.

Numbers are those of linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, neighbour.h and veth.h. Every builder
returns a whole message with sequence number 0; `Socket.batch` numbers them. Addresses are packed bytes (4 for
IPv4, 16 for IPv6), so that a family is the length of its address.
"""

import _socket
import errno
import posix
from _struct import Struct

NETLINK_ROUTE = 0
AF_INET, AF_INET6 = 2, 10

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 4, 18, 20
IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 26, 27, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER, _IFLA_INET_CONF = 1, 2, 1, 1
# Positions in the kernel's ipv4_devconf, from 1 (linux/ip.h, IPV4_DEVCONF_*).
FORWARDING, SEND_REDIRECTS, RP_FILTER, ROUTE_LOCALNET = 1, 6, 8, 26

IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTNH_F_ONLINK = 4
RTM_F_FIB_MATCH = 0x2000
# Marks routes as ours to readers of `ip route` (linux/rtnetlink.h leaves numbers of this range to users).
ROUTE_PROTOCOL = 112

_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBi")
_ROUTE = Struct("=BBBBBBBBI")
_NEIGHBOUR = Struct("=BxxxiHBB")
_U32 = Struct("=I")
_I32 = Struct("=i")

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_NLM_F_ACK_TLVS, _NLMSGERR_ATTR_MSG = 0x200, 1


class Refusal(Exception):
    """The kernel answered a request with an error: `errno`, its extended text, and the request's position."""

    def __init__(self, code: int, text: str, position: int) -> None:
        reason = posix.strerror(code)
        super().__init__(f"{reason} ({text})" if text else reason)
        self.errno = code
        self.position = position


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    size = 4 + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One netlink request."""
    return _HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


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


def describe_link(index: int, alias: str, ipv4: "tuple[tuple[int, int], ...]") -> bytes:
    """Set a link's alias (kept to 255 bytes) and its `net.ipv4.conf` values, given as (position, value)."""
    conf = b"".join(attribute(position, _U32.pack(value)) for position, value in ipv4)
    inet = attribute(AF_INET, attribute(_IFLA_INET_CONF, conf))
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_IFALIAS, alias.encode(errors="replace")[:255])
    return message(RTM_SETLINK, 0, body + attribute(IFLA_AF_SPEC, inet))


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
    """Add an address to a link."""
    body = _ADDRESS.pack(_family(address), prefix, 0, RT_SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address)
    return message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def new_route(index: int, destination: bytes, prefix: int, gateway: "bytes | None" = None) -> bytes:
    """A route over a link: to a neighbour on it, or through `gateway`, taken as on-link without a route to it.

    Exclusive: the kernel answers EEXIST when the namespace has this destination already.
    """
    scope = RT_SCOPE_LINK if gateway is None else RT_SCOPE_UNIVERSE
    flags = 0 if gateway is None else RTNH_F_ONLINK
    body = _ROUTE.pack(_family(destination), prefix, 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, RTN_UNICAST, flags)
    if prefix:
        body += attribute(RTA_DST, destination)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway)
    return message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body + attribute(RTA_OIF, _U32.pack(index)))


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


def attributes(body: bytes, offset: int) -> "dict[int, bytes]":
    """The attributes of a message body from `offset` on; nested ones stay bytes."""
    found = {}
    while offset + 4 <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < 4:
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + size]
        offset += size + (-size % 4)
    return found


class Socket:
    """A netlink socket bound to the namespace that the process was in when it was opened."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self.raw = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        self.raw.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self.raw.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; twice is once."""
        self.raw.close()

    def send(self, messages: "list[bytes]") -> "tuple[int, int]":
        """Send the messages in one `sendmsg`; returns the first and last sequence number given to them."""
        first = self._sequence + 1
        parts = []
        for each in messages:
            self._sequence += 1
            length, kind, flags, _, _ = _HEADER.unpack_from(each)
            parts.append(_HEADER.pack(length, kind, flags, self._sequence, 0))
            parts.append(each[16:])
        self.raw.sendmsg(parts)
        return first, self._sequence

    def batch(self, messages: "list[bytes]") -> None:
        """Run requests in order; the kernel goes on after a failure, and the first one is raised as Refusal.

        Only the last asks for an acknowledgement: errors are answered always, and the kernel has done all of it
        when `sendmsg` returns.
        """
        length, kind, flags, _, _ = _HEADER.unpack_from(messages[-1])
        acknowledged = _HEADER.pack(length, kind, flags | NLM_F_ACK, 0, 0) + messages[-1][16:]
        self.settle(*self.send([*messages[:-1], acknowledged]))

    def settle(self, first: int, last: int, fatal: int = 0) -> None:
        """Read answers until `last` is acknowledged; raise the first error, at once when it is that of `fatal`."""
        fault = None
        while True:
            for kind, sequence, flags, body in self._receive():
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                fault = fault or refusal(body, flags, sequence - first)
                if sequence == last or (fault and sequence == fatal):
                    if fault:
                        raise fault
                    return

    def ask(self, request: bytes) -> bytes:
        """The body of the one answer to a request. Raises Refusal (ENODEV, ENETUNREACH, ESRCH, ...)."""
        first, _ = self.send([request])
        while True:
            for kind, sequence, flags, body in self._receive():
                if sequence != first:
                    continue
                if kind != NLMSG_ERROR:
                    return body
                fault = refusal(body, flags, 0)
                if fault:
                    raise fault

    def dump(self, request: bytes) -> "list[bytes]":
        """The bodies of all answers to a request made with NLM_F_DUMP."""
        first, _ = self.send([request])
        bodies: list[bytes] = []
        while True:
            for kind, sequence, flags, body in self._receive():
                if sequence != first:
                    continue
                if kind == NLMSG_DONE:
                    return bodies
                if kind == NLMSG_ERROR:
                    raise refusal(body, flags, 0) or Refusal(errno.EIO, "dump refused", 0)
                bodies.append(body)

    def _receive(self) -> "list[tuple[int, int, int, bytes]]":
        # The kernel cuts dumps at 32 KiB; a larger buffer would be mapped and unmapped at every answer.
        data = self.raw.recv(1 << 16)
        received = []
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            received.append((kind, sequence, flags, data[offset + 16 : offset + length]))
            offset += length + (-length % 4)
        return received

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

    def links(self) -> "list[Link]":
        """All links of the namespace."""
        return [Link(body) for body in self.dump(message(RTM_GETLINK, NLM_F_DUMP, _LINK.pack(0, 0, 0, 0, 0)))]

    def route(self, destination: bytes) -> "tuple[int, int, bytes] | None":
        """The routing-table entry that traffic to `destination` matches: (prefix length, link index, gateway)."""
        family = _family(destination)
        body = _ROUTE.pack(family, len(destination) * 8, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
        try:
            answer = self.ask(message(RTM_GETROUTE, 0, body + attribute(RTA_DST, destination)))
        except Refusal as fault:
            if fault.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH):
                return None
            raise
        found = attributes(answer, _ROUTE.size)
        index = _U32.unpack(found[RTA_OIF])[0] if RTA_OIF in found else 0
        return answer[1], index, found.get(RTA_GATEWAY, b"")

    def routes(self) -> "list[tuple[bytes, int, int, bytes]]":
        """The IPv4 routes of the main table: (destination, empty for default; prefix length; link; gateway)."""
        found = []
        for body in self.dump(message(RTM_GETROUTE, NLM_F_DUMP, _ROUTE.pack(AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))):
            held = attributes(body, _ROUTE.size)
            if body[4] == RT_TABLE_MAIN and RTA_OIF in held:
                index: int = _U32.unpack(held[RTA_OIF])[0]
                found.append((held.get(RTA_DST, b""), body[1], index, held.get(RTA_GATEWAY, b"")))
        return found

    def neighbour(self, index: int, address: bytes) -> "bytes | None":
        """The link-layer address that the link's neighbour table holds for `address`, or None."""
        body = _NEIGHBOUR.pack(_family(address), index, 0, 0, 0) + attribute(NDA_DST, address)
        try:
            answer = self.ask(message(RTM_GETNEIGH, 0, body))
        except Refusal as fault:
            if fault.errno == errno.ENOENT:
                return None
            raise
        return attributes(answer, _NEIGHBOUR.size).get(NDA_LLADDR)

    def addresses(self, index: int) -> "list[tuple[bytes, int]]":
        """The addresses of a link, each with its prefix length."""
        # Without strict checking the kernel ignores the index in the header and dumps every link.
        self.raw.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        found = []
        for body in self.dump(message(RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(0, 0, 0, 0, index))):
            held = attributes(body, _ADDRESS.size)
            found.append((held.get(IFA_LOCAL) or held[IFA_ADDRESS], body[1]))
        return found


def refusal(body: bytes, flags: int, position: int) -> "Refusal | None":
    """The error in an NLMSG_ERROR body, or None for an acknowledgement."""
    code: int = -_I32.unpack_from(body)[0]
    if code == 0:
        return None
    text = ""
    if flags & _NLM_F_ACK_TLVS:
        # NETLINK_CAP_ACK leaves errno and the header of the failed request before the attributes.
        text = attributes(body, 20).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return Refusal(code, text, position)
