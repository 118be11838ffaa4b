"""cni_plugin.conntrack, to be run inside a namespace.

flush.py filtered|dumped [ADDRESS ...] [PROTOCOL/ADDRESS/PORT ...]

Prints how many entries were removed, whether all, and how many of the DELETE requests carried no tuple. `dumped` is
what kernels before 6.12 get.
"""

import ipaddress
import sys
from typing import Any

from cni_plugin import conntrack, netlink
from cni_plugin.nftables import PROTOCOLS

CTNETLINK_DELETE = 0x102
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY = 1, 2
bare = 0


class CountingSocket(netlink.Socket):
    """Counts what would empty the table."""

    def send(self, messages: list[bytes]) -> tuple[int, int]:
        """As the real one."""
        global bare
        for each in messages:
            if int.from_bytes(each[4:6], sys.byteorder) == CTNETLINK_DELETE:
                bare += not netlink.attributes(each, 20).keys() & {CTA_TUPLE_ORIG, CTA_TUPLE_REPLY}
        return super().send(messages)


def main(way: str, *targets: str) -> None:
    """Flush and print."""
    changed: Any = conntrack
    changed.Socket = CountingSocket
    if way != "filtered":
        changed._Table.remove_filtered = lambda *_: False
    addresses, ports = [], []
    for target in targets:
        if "/" in target:
            protocol, host, port = target.split("/")
            ports.append((PROTOCOLS[protocol], ipaddress.ip_address(host).packed, int(port)))
        else:
            addresses.append(ipaddress.ip_address(target).packed)
    removed, complete = conntrack.flush(addresses, ports)
    print(removed, complete, bare)


if __name__ == "__main__":
    main(*sys.argv[1:])
