"""What the requests to nf_tables and ctnetlink have in common (linux/netfilter/nfnetlink.h)."""

import errno
from _struct import Struct

from cni_plugin.netlink import NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, Socket, attribute, message, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NETLINK_NETFILTER = 12
# What a kernel answers that lacks the subsystem, or all of netfilter.
ABSENT = (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENODEV)

_NESTED = 0x8000
_NLM_F_MULTI, _NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 0x2, 0x10, 0x200
# The flags that NLMSG_DONE may bear: that the table changed meanwhile is told there too.
_DONE_FLAGS = [_NLM_F_MULTI | more | text for more in (0, _NLM_F_DUMP_INTR) for text in (0, _NLM_F_ACK_TLVS)]
_HEADER = Struct("=IHHII")
_TAIL = Struct("=HHI")


def generic(family: int) -> bytes:
    """struct nfgenmsg, with which every body begins: four bytes."""
    return bytes((family, 0, 0, 0))


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def dump(
    socket: Socket,
    kind: int,
    body: bytes,
    worth_reading: "Callable[[bytes], bool]",
    late: "Callable[[], bool]" = lambda: False,
) -> "Iterator[bytes]":
    """The bodies of the answers to a dump, of those datagrams that are worth reading; ends early when it is late.

    A table of thousands comes in datagrams of many answers each: one search through the whole of one is cheaper
    than unpacking it. Whoever ends early must close the socket: the rest is still to come. Raises Refusal.
    """
    first, _ = socket.send([message(kind, NLM_F_DUMP, body)])
    # NLMSG_DONE stands alone, or behind the last answers when there is room; type, flags and sequence tell it.
    endings = [_TAIL.pack(NLMSG_DONE, flags, first) for flags in _DONE_FLAGS]
    while not late():
        data = socket.receive()
        ends = _HEADER.unpack_from(data)[1] == NLMSG_ERROR or any(ending in data for ending in endings)
        if not ends and not worth_reading(data):
            continue
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, type_, _, sequence, _ = _HEADER.unpack_from(data, offset)
            answer = data[offset + _HEADER.size : offset + length]
            offset += length + (-length % 4)
            if sequence != first:
                continue
            if type_ in (NLMSG_DONE, NLMSG_ERROR):
                # A dump that fails in its midst says so at its end.
                fault = refusal(answer[:4], 0, 0) if len(answer) >= 4 else None
                if fault:
                    raise fault
                return
            yield answer
