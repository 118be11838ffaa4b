"""What changes in the kernel, as reasons to look again: links, addresses, routes, neighbours and our nft table.

Events only mark: what is true is read anew from the kernel. So an event may be lost (the kernel says so by ENOBUFS),
and what pods make is passed over by a glance at its header: a starting pod costs no reconcile.
"""

import errno
import socket
from collections.abc import Iterator
from struct import Struct

from cni_plugin import rtnetlink
from cni_plugin.net.kernel import GROUPS
from cni_plugin.netlink import attributes
from cni_plugin.nftables import TABLE

# linux/rtnetlink.h and nfnetlink.h: groups to listen to.
_LINK, _NEIGH, _ADDRESSES, _ROUTES = 1 << 0, 1 << 2, 1 << 4 | 1 << 8, 1 << 6 | 1 << 10
_NFNLGRP_NFTABLES = 7
_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_HEADER = Struct("=IHHII")
_NFT_NEWTABLE, _NFT_DELTABLE = 10 << 8 | 0, 10 << 8 | 2
_RTM_DELLINK, _RTM_DELADDR, _RTM_DELROUTE, _RTM_DELNEIGH = 17, 21, 25, 29
_IFLA_GROUP, _TABLE_NAME = 27, 1
_RT_TABLE_MAIN = 254
_BUFFER = 1 << 20

LINKS, ADDRESSES, ROUTES, NEIGHBOURS, TABLE_MADE, TABLE_GONE, LOST = (
    "links", "addresses", "routes", "neighbours", "table made", "table removed", "events lost",
)  # fmt: skip


class Monitor:
    """Two sockets that the main loop polls."""

    def __init__(self) -> None:
        self._route = self._socket(rtnetlink.NETLINK_ROUTE)
        self._route.bind((0, _LINK | _NEIGH | _ADDRESSES | _ROUTES))
        self._nft = self._socket(_NETFILTER)
        self._nft.bind((0, 0))
        self._nft.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        self.tunnel = 0
        """The number of the tunnel's link: of the neighbours only its own matter."""

    @staticmethod
    def _socket(protocol: int) -> socket.socket:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        return made

    def descriptors(self) -> tuple[int, int]:
        """What to poll for input."""
        return self._route.fileno(), self._nft.fileno()

    def close(self) -> None:
        """Close both sockets."""
        self._route.close()
        self._nft.close()

    def read(self) -> set[str]:
        """Drain both sockets; the reasons to look again, none where nothing happened that matters."""
        reasons: set[str] = set()
        for sock, judge in ((self._route, self._judge_route), (self._nft, _judge_nft)):
            for data in _datagrams(sock, reasons):
                offset = 0
                while offset + 16 <= len(data):
                    length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                    if length < 16:
                        break
                    if reason := judge(kind, data[offset + 16 : offset + length]):
                        reasons.add(reason)
                    offset += length + (-length % 4)
        return reasons

    def _judge_route(self, kind: int, body: bytes) -> str:
        if kind in (rtnetlink.RTM_NEWLINK, _RTM_DELLINK):
            group = attributes(body, 16).get(_IFLA_GROUP, b"")
            return "" if int.from_bytes(group, "little") in GROUPS else LINKS
        if kind in (rtnetlink.RTM_NEWADDR, _RTM_DELADDR):
            return ADDRESSES
        if kind in (rtnetlink.RTM_NEWROUTE, _RTM_DELROUTE):
            # struct rtmsg: destination's length, table, protocol. Pods' own routes are not ours to look at.
            return "" if body[5] == rtnetlink.ROUTE_PROTOCOL or body[4] != _RT_TABLE_MAIN else ROUTES
        if kind in (rtnetlink.RTM_NEWNEIGH, _RTM_DELNEIGH):
            index = int.from_bytes(body[4:8], "little")
            return NEIGHBOURS if index == self.tunnel and kind == _RTM_DELNEIGH else ""
        return ""


def _judge_nft(kind: int, body: bytes) -> str:
    if kind not in (_NFT_NEWTABLE, _NFT_DELTABLE):
        return ""
    if attributes(body, 4).get(_TABLE_NAME, b"").rstrip(b"\0").decode(errors="replace") != TABLE:
        return ""
    return TABLE_MADE if kind == _NFT_NEWTABLE else TABLE_GONE


def _datagrams(sock: socket.socket, reasons: set[str]) -> Iterator[bytes]:
    while True:
        try:
            yield sock.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError as fault:
            if fault.errno != errno.ENOBUFS:
                raise
            reasons.add(LOST)
