"""The role of the reference plugin `loopback`: containerd executes it for every sandbox."""

import posix

from cni_plugin import netns, rtdump, rtnetlink
from cni_plugin.call import Call
from cni_plugin.config import Network
from cni_plugin.netlink import Refusal
from cni_plugin.spec import CHECK_MISMATCH, KERNEL_REFUSED, CniError, parse_version
from cni_plugin.wiring import LOOPBACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _socket_in(path: str) -> "rtnetlink.Socket":
    descriptor = netns.open_netns(path)
    try:
        netns.enter(descriptor)
    finally:
        posix.close(descriptor)
    return rtnetlink.Socket()


def add(call: Call, network: Network) -> "dict[str, Any]":
    """Set `lo` up; the result names it with the addresses that the kernel gave it, or is prevResult."""
    pod = _socket_in(call.netns)
    try:
        pod.batch([rtnetlink.link_up(LOOPBACK)])
    except Refusal as fault:
        raise CniError(KERNEL_REFUSED, f"setting lo up in {call.netns}: {fault}") from None
    if network.prev_result is not None:
        return network.prev_result
    held = [(address, prefix) for address, prefix, _ in rtdump.addresses(pod, LOOPBACK)]
    v4 = [f"127.0.0.1/{prefix}" for address, prefix in held if address == b"\x7f\0\0\1"]
    v6 = [f"::1/{prefix}" for address, prefix in held if address == b"\0" * 15 + b"\1"]
    version = parse_version(network.cni_version)
    if version < (0, 3, 0):
        answer: dict[str, Any] = {"cniVersion": network.cni_version}
        for key, addresses in (("ip4", v4), ("ip6", v6)):
            if addresses:
                answer[key] = {"ip": addresses[0]}
        return answer
    ips = []
    for family, addresses in (("4", v4), ("6", v6)):
        for text in addresses:
            entry: dict[str, Any] = {"address": text, "interface": 0}
            if version < (1, 0, 0):
                entry["version"] = family
            ips.append(entry)
    interface = {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": call.netns}
    return {"cniVersion": network.cni_version, "interfaces": [interface], "ips": ips}


def delete(call: Call) -> None:
    """Set `lo` down where the namespace is still there."""
    if not call.netns:
        return
    try:
        _socket_in(call.netns).batch([rtnetlink.link_down(LOOPBACK)])
    except (CniError, Refusal):
        pass  # the namespace is gone or going, and lo with it


def check(call: Call) -> None:
    """Raises CniError 108 when `lo` is down."""
    link = _socket_in(call.netns).link_at(LOOPBACK)
    if link is None or not link.flags & rtnetlink.IFF_UP:
        raise CniError(CHECK_MISMATCH, f"lo is down in {call.netns}", "something set it down after ADD")
