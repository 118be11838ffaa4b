"""What the kernel says that a plan needs: this node's addresses and MTUs, and which other addresses are on-link."""

import ipaddress
from collections.abc import Iterable
from struct import Struct
from typing import Any

from pyroute2 import IPRoute

from cni_plugin import rtnetlink
from cni_plugin.agent.plan import Local, Scene
from cni_plugin.agent.settings import Address
from cni_plugin.net.kernel import GROUPS
from cni_plugin.netlink import Refusal, attribute, attributes, message

FAMILIES = {2: 4, 10: 6}
_SCOPE_GLOBAL = 0
_TENTATIVE_OR_FAILED = 0x08 | 0x40
# linux/if.h: links where a gateway means nothing, as every packet goes to the one other end.
_NO_GATEWAYS = 0x8 | 0x10 | 0x80  # loopback, point to point, no ARP
_UNREACHABLE = 101, 113, 3, 13, 22  # ENETUNREACH, EHOSTUNREACH, ESRCH, EACCES, EINVAL
_ROUTE = Struct("=BBBBBBBBI")
_INDEX = Struct("=I")
_RTA_VIA = 18
_RTN_UNICAST = 1


def held(message: Any) -> dict[str, Any]:
    """A pyroute2 message's attributes by name; of several with one name the last."""
    return dict(message["attrs"])


def read(ip: IPRoute, tunnel: int, others: Iterable[Address]) -> Scene:
    """The scene, without what the tunnel's own link (`tunnel`, 0 for none) contributes."""
    links = {each["index"]: each for each in ip.get_links()}
    mtus = {index: int(held(each)["IFLA_MTU"]) for index, each in links.items()}
    local: dict[Address, Local] = {}
    for family in FAMILIES:
        for each in ip.get_addr(family=family):
            found = held(each)
            text = found.get("IFA_LOCAL") or found.get("IFA_ADDRESS")
            flags = found.get("IFA_FLAGS", each["flags"])
            if text and each["scope"] == _SCOPE_GLOBAL and each["index"] != tunnel and not flags & _TENTATIVE_OR_FAILED:
                local[ipaddress.ip_address(text)] = Local(each["index"], mtus.get(each["index"], 1500))
    fit = {
        index
        for index, each in links.items()
        if index != tunnel and not each["flags"] & _NO_GATEWAYS and held(each).get("IFLA_GROUP", 0) not in GROUPS
    }
    asking = rtnetlink.Socket()
    try:
        found_links = {each: _on_link(asking, each) for each in others}
    finally:
        asking.close()
    return Scene(local, {each: link for each, link in found_links.items() if link in fit})


def _on_link(asking: "rtnetlink.Socket", address: Address) -> int:
    """The link that the kernel would send to this address over without a gateway, or 0."""
    packed = address.packed
    family = rtnetlink.AF_INET if len(packed) == 4 else rtnetlink.AF_INET6
    query = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(rtnetlink.RTA_DST, packed)
    try:
        answer = asking.ask(message(rtnetlink.RTM_GETROUTE, 0, query))
    except Refusal as fault:
        if fault.errno in _UNREACHABLE:
            return 0
        raise
    found = attributes(answer, _ROUTE.size)
    if answer[7] != _RTN_UNICAST or rtnetlink.RTA_GATEWAY in found or _RTA_VIA in found:
        return 0
    link: int = _INDEX.unpack(found[rtnetlink.RTA_OIF])[0] if rtnetlink.RTA_OIF in found else 0
    return link
