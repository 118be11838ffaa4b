"""Connection tracking: removes the entries that outlive an address or a hostPort, through ctnetlink.

A UDP conversation never ends by itself: while its entry lives, its packets go where they went before, whatever
the nft table says now. So entries of a freed address go with it, and those made before a hostPort was there go
when it appears. Numbers are those of linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.

ctnetlink takes a DELETE without a tuple for "empty the table". Every DELETE here carries one: a whole tuple, or a
part of one with CTA_FILTER. Kernels before 6.12 look the part up as if it were whole, and refuse it; what they
get instead is a dump and a DELETE for each entry, by its tuple, zone and id. So does IPv6 on every kernel: its
addresses are compared the wrong way round (seen on 6.18), and such a filter selects everything else.
"""

import errno
import time
from _struct import Struct

from cni_plugin.netfilter import ABSENT, NETLINK_NETFILTER, dump, generic, nested
from cni_plugin.netlink import Refusal, Socket, attribute, attributes, message
from cni_plugin.rtnetlink import AF_INET, AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UDP = 17

_SUBSYSTEM = 1
_GET, _DELETE, _GET_STATS = 1, 2, 5
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID, _ZONE, _FILTER = 1, 2, 3, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_STATS_ENTRIES = 1
_IP_SOURCE, _IP_DESTINATION, _IP6_DESTINATION = 1, 2, 4
_FLAG_SOURCE, _FLAG_DESTINATION, _FLAG_PROTO_NUM, _FLAG_DST_PORT = 1, 2, 8, 32
_IPS_ASSURED = 1 << 2

_GENERIC_SIZE = 4
_U32 = Struct("=I")

# Up to here a walk that removes for each address costs less than one that dumps for all (0.2 ms against 10 ms).
_FEW_ADDRESSES = 16
_SECONDS = 0.5
_CHUNK = 64


def flush(addresses: "list[bytes]", ports: "list[tuple[int, bytes, int]]") -> "tuple[int, bool]":
    """Remove entries of this namespace that involve an address or lead to a hostPort; how many, and whether all.

    An address is looked for as source and destination of both directions. A hostPort is (protocol number, host
    address or zeros for every one of the node, port), looked for as the original destination; call this when its
    rules are in force. Established conversations of protocols other than UDP go on: they cannot be moved anyway.

    Stops after half a second, and says so: (removed, False). A kernel without ctnetlink has nothing to
    remove. The number is near enough for a log, not more. Raises Refusal for anything else (EPERM).
    """
    try:
        socket = Socket(NETLINK_NETFILTER)
    except OSError as fault:
        if fault.errno in ABSENT:
            return 0, True
        raise
    try:
        return _Table(socket).flush(addresses, ports)
    finally:
        socket.close()


class _Table:
    """The table of one namespace, for the time of one flush."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.deadline = time.monotonic() + _SECONDS
        self.complete = True

    def flush(self, addresses: "list[bytes]", ports: "list[tuple[int, bytes, int]]") -> "tuple[int, bool]":
        # A walk visits every bucket of the machine's table; the number of entries is there for nothing.
        if not (addresses or ports) or not self.entries():
            return 0, True
        removed = 0
        if addresses:
            removed += self.remove_addresses(addresses)
        if ports:
            local = _local_addresses()
            for protocol, host, port in ports:
                targets = [host] if any(host) else [each for each in local if len(each) == len(host)]
                removed += self.remove_port(protocol, port, targets)
        return removed, self.complete

    def entries(self) -> int:
        """How many entries the namespace has; 0 too where the kernel has no ctnetlink."""
        try:
            answer = self.socket.ask(message(_SUBSYSTEM << 8 | _GET_STATS, 0, generic(0)))
        except Refusal as fault:
            if fault.errno in ABSENT:
                return 0
            raise
        return int.from_bytes(attributes(answer, _GENERIC_SIZE).get(_STATS_ENTRIES, b""), "big")

    def remove_addresses(self, addresses: "list[bytes]") -> int:
        """Remove every entry that involves one of the addresses."""
        ipv4 = [address for address in addresses if len(address) == 4]
        before = self.entries()
        filtered = self.remove_filtered([each for address in ipv4 for each in _address_filters(address)])
        removed = max(0, before - self.entries()) if ipv4 and filtered else 0
        rest = {address for address in addresses if not (filtered and len(address) == 4)}
        if not rest:
            return removed
        sizes = {len(address) for address in rest}
        request = generic(_family(sizes.pop()) if len(sizes) == 1 else 0)
        # Most of what comes is somebody else's; a search through a whole answer costs next to nothing.
        bodies = self.dump(request, lambda data: any(address in data for address in rest))
        return removed + self.remove([_identity(body) for body in bodies if not rest.isdisjoint(_all_addresses(body))])

    def remove_port(self, protocol: int, port: int, targets: "list[bytes]") -> int:
        """Remove the entries whose original destination is the port on one of the addresses, all of one family."""
        if not targets:
            return 0
        if protocol == UDP and len(targets[0]) == 4 and len(targets) <= _FEW_ADDRESSES:
            before = self.entries()
            if self.remove_filtered([_port_filter(protocol, port, target) for target in targets]):
                return max(0, before - self.entries())
        bodies = self.dump(_port_filter(protocol, port, bytes(len(targets[0]))), lambda _: True)
        # The kernel's filter saves work; what is removed is decided here.
        return self.remove([_identity(body) for body in bodies if _leads_to(body, protocol, port, targets)])

    def remove_filtered(self, filters: "list[bytes]") -> bool:
        """Have the kernel find and remove; False when it cannot, and has done nothing."""
        for each in filters:
            if self.late():
                break
            try:
                self.socket.batch([message(_SUBSYSTEM << 8 | _DELETE, 0, each)])
            except Refusal as fault:
                if fault.errno in ABSENT:
                    return False
                raise
        return True

    def late(self) -> bool:
        """Whether the time is up, which makes the result incomplete."""
        if time.monotonic() > self.deadline:
            self.complete = False
        return not self.complete

    def dump(self, body: bytes, worth_reading: "Callable[[bytes], bool]") -> "Iterator[bytes]":
        return dump(self.socket, _SUBSYSTEM << 8 | _GET, body, worth_reading, self.late)

    def remove(self, identities: "list[bytes]") -> int:
        """Remove entries; one that has ended meanwhile is as good as removed."""
        removed = 0
        for start in range(0, len(identities), _CHUNK):
            if self.late():
                break
            chunk = [message(_SUBSYSTEM << 8 | _DELETE, 0, each) for each in identities[start : start + _CHUNK]]
            try:
                self.socket.batch(chunk)
            except Refusal as fault:
                # The kernel went on with the others. It gives EBUSY for those that a flowtable has taken over.
                if fault.errno not in (errno.ENOENT, errno.EBUSY):
                    raise
            removed += len(chunk)
        return removed


def _local_addresses() -> "list[bytes]":
    """The node's own addresses, each once."""
    from cni_plugin import rtdump, rtnetlink

    socket = rtnetlink.Socket()
    try:
        return list({address: None for address, _, _ in rtdump.addresses(socket, 0)})
    finally:
        socket.close()


def _family(size: int) -> int:
    return AF_INET if size == 4 else AF_INET6


def _address_filters(address: bytes) -> "list[bytes]":
    """Bodies that select by one IPv4 address: as source and destination of either direction."""
    filters = []
    for direction in (_TUPLE_ORIG, _TUPLE_REPLY):
        for kind, flag in ((_IP_SOURCE, _FLAG_SOURCE), (_IP_DESTINATION, _FLAG_DESTINATION)):
            selected = nested(direction, nested(_TUPLE_IP, attribute(kind, address)))
            filters.append(_filtered(len(address), selected, direction, flag))
    return filters


def _port_filter(protocol: int, port: int, target: bytes) -> bytes:
    """A body that selects by protocol and original destination: the port on `target` (IPv4), on any if it is zeros."""
    proto = (attribute(_PROTO_NUM, bytes((protocol,))), attribute(_PROTO_DST_PORT, port.to_bytes(2, "big")))
    parts, flags = [nested(_TUPLE_PROTO, *proto)], _FLAG_PROTO_NUM | _FLAG_DST_PORT
    if any(target):
        parts.append(nested(_TUPLE_IP, attribute(_IP_DESTINATION, target)))
        flags |= _FLAG_DESTINATION
    return _filtered(len(target), nested(_TUPLE_ORIG, *parts), _TUPLE_ORIG, flags)


def _filtered(size: int, selected: bytes, direction: int, flags: int) -> bytes:
    # CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS have the numbers of the directions.
    return generic(_family(size)) + selected + nested(_FILTER, attribute(direction, _U32.pack(flags)))


def _all_addresses(body: bytes) -> "list[bytes]":
    """The addresses of both directions of a dumped entry."""
    held = attributes(body, _GENERIC_SIZE)
    found: list[bytes] = []
    for direction in (_TUPLE_ORIG, _TUPLE_REPLY):
        found += attributes(attributes(held.get(direction, b""), 0).get(_TUPLE_IP, b""), 0).values()
    return found


def _leads_to(body: bytes, protocol: int, port: int, targets: "list[bytes]") -> bool:
    held = attributes(body, _GENERIC_SIZE)
    tuple_ = attributes(held.get(_TUPLE_ORIG, b""), 0)
    proto = attributes(tuple_.get(_TUPLE_PROTO, b""), 0)
    if proto.get(_PROTO_NUM) != bytes((protocol,)) or proto.get(_PROTO_DST_PORT) != port.to_bytes(2, "big"):
        return False
    if protocol != UDP and int.from_bytes(held.get(_STATUS, b""), "big") & _IPS_ASSURED:
        return False
    ends = attributes(tuple_.get(_TUPLE_IP, b""), 0)
    return any(ends.get(_IP_DESTINATION if len(target) == 4 else _IP6_DESTINATION) == target for target in targets)


def _identity(body: bytes) -> bytes:
    """What names a dumped entry in a request, and no other: family, whole tuple, zone, and the kernel's id."""
    held = attributes(body, _GENERIC_SIZE)
    parts = [nested(_TUPLE_ORIG, held[_TUPLE_ORIG])]
    parts += [attribute(kind, held[kind]) for kind in (_ZONE, _ID) if kind in held]
    return generic(body[0]) + b"".join(parts)
