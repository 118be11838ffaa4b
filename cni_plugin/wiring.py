"""An attachment as kernel messages: pure, so that tests and CHECK can read what ADD would do.

Routed datapath: the pod has single addresses (/32, /128) and default routes through a gateway that no interface
holds: a permanent neighbour entry names the host end instead. The node has a route and a permanent neighbour the
other way.
"""

from cni_plugin import ipam, rtnetlink
from cni_plugin.attachment import HOST_MAC, Attachment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

LOOPBACK = 1
# How many of the host's messages make and describe the link; the others need it to be there with its IPv6.
LINK_MESSAGES = 2
# Out of TEST-NET-2 and 2001:db8::/32, which nobody routes specially: what they match is the default route.
FAR_AWAY = {4: bytes((198, 51, 100, 1)), 16: b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"}


def host_messages(attachment: Attachment, index: int, peer_netns: int) -> "list[bytes]":
    """The node's half, in order; the first makes the pair, and deleting the link undoes all of them.

    `peer_netns` is a descriptor of the pod's namespace: the peer is born there, since moving a link makes the
    whole node wait (rcu_barrier).
    """
    conf = [
        (rtnetlink.FORWARDING, 1),
        # Strict: what comes from the pod must carry its address. (The table's guard chain does it for IPv6.)
        (rtnetlink.RP_FILTER, 1),
        # A pod that calls its own hostPort leaves by the link it came in.
        (rtnetlink.SEND_REDIRECTS, 0),
    ]
    if attachment.host_ports:
        # 127.0.0.1:hostPort on the node. The table's guard chain keeps pods from the node's 127.0.0.0/8.
        conf.append((rtnetlink.ROUTE_LOCALNET, 1))
    messages = [
        rtnetlink.new_veth(
            attachment.host_link,
            index,
            HOST_MAC,
            attachment.mtu,
            attachment.group,
            attachment.ifname,
            attachment.mac,
            peer_netns,
        ),
        rtnetlink.describe_link(index, attachment.alias, tuple(conf), attachment.has_ipv6()),
    ]
    for each in attachment.addresses:
        messages.append(rtnetlink.new_route(index, each.packed, each.prefix))
        messages.append(rtnetlink.new_neighbour(index, each.packed, attachment.mac))
    return messages


def pod_messages(attachment: Attachment, index: int) -> "list[bytes]":
    """The pod's half, in order."""
    messages = [rtnetlink.link_up(LOOPBACK)]
    if attachment.has_ipv6():
        messages.append(rtnetlink.no_link_local(index))
    messages.append(rtnetlink.link_up(index))
    messages += [rtnetlink.new_address(index, each.packed, each.prefix) for each in attachment.addresses]
    messages += [rtnetlink.new_neighbour(index, gateway, HOST_MAC) for gateway in gateways(attachment)]
    for route in pod_routes(attachment):
        metrics = ((rtnetlink.RTAX_MTU, route.mtu), (rtnetlink.RTAX_ADVMSS, route.advmss))
        messages.append(
            rtnetlink.new_route(
                index,
                route.destination,
                route.prefix,
                route.gateway,
                route.table,
                route.priority,
                tuple(metric for metric in metrics if metric[1]),
                route.scope,
            )
        )
    if attachment.table:
        messages += [
            rtnetlink.source_rule(rtnetlink.RTM_NEWRULE, each.packed, attachment.table) for each in attachment.addresses
        ]
    return messages


class PodRoute:
    """One route of the pod, with everything that the kernel is told; numbers that are not given are 0."""

    __slots__ = ("advmss", "destination", "gateway", "mtu", "prefix", "priority", "scope", "table")

    def __init__(self, stated: "dict[str, Any]", table: int, priority: int = 0) -> None:
        self.destination, self.prefix = ipam.parse_subnet(stated["dst"])
        self.gateway = ipam.parse_address(stated["gw"])
        self.table = stated.get("table") or table
        self.priority: int = stated.get("priority") or priority
        self.mtu: int = stated.get("mtu") or 0
        self.advmss: int = stated.get("advmss") or 0
        self.scope: int = stated.get("scope") or 0


def pod_routes(attachment: Attachment) -> "Iterator[PodRoute]":
    """The routes that the kernel gets.

    A pod's second interface leaves the main table's default route alone: its routes stand in a table of its own,
    which rules choose by source address. Destinations other than everything stand in the main table too, with the
    table's number as metric, so that two networks with the same destination do not collide.
    """
    for stated in attachment.routes:
        if not attachment.table:
            yield PodRoute(stated, rtnetlink.RT_TABLE_MAIN)
            continue
        yield PodRoute(stated, attachment.table)
        if not stated["dst"].endswith("/0") and not stated.get("table"):
            yield PodRoute(stated, rtnetlink.RT_TABLE_MAIN, attachment.table)


def gateways(attachment: Attachment) -> "list[bytes]":
    """Every gateway that the pod's routes use, once."""
    found = [each.gateway for each in attachment.addresses]
    found += [ipam.parse_address(route["gw"]) for route in attachment.routes]
    return list(dict.fromkeys(found))


def has_default_route(pod: "rtnetlink.Socket", widths: "list[int]") -> bool:
    """Whether an earlier interface took the pod's default route of one of these families."""
    matches = [pod.route(FAR_AWAY[width]) for width in widths]
    return any(match is not None and match.prefix == 0 for match in matches)
