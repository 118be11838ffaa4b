"""An attachment as kernel messages: pure, so that tests and CHECK can read what ADD would do.

Routed datapath: the pod has a /32 and a default route through 169.254.1.1, which no interface holds: a permanent
neighbour entry names the host end instead. The node has a /32 route and a permanent neighbour the other way.
"""

from cni_plugin import ipam, rtnetlink
from cni_plugin.attachment import GATEWAY, HOST_MAC, Attachment

LOOPBACK = 1


def host_messages(attachment: Attachment, index: int, peer_netns: int) -> "list[bytes]":
    """The node's half, in order; the first makes the pair, and deleting the link undoes all of them.

    `peer_netns` is a descriptor of the pod's namespace: the peer is born there, since moving a link makes the
    whole node wait (rcu_barrier).
    """
    conf = [
        (rtnetlink.FORWARDING, 1),
        # Strict: what comes from the pod must carry its address.
        (rtnetlink.RP_FILTER, 1),
        # A pod that calls its own hostPort leaves by the link it came in.
        (rtnetlink.SEND_REDIRECTS, 0),
    ]
    if attachment.host_ports:
        # 127.0.0.1:hostPort on the node. The table's guard chain keeps pods from the node's 127.0.0.0/8.
        conf.append((rtnetlink.ROUTE_LOCALNET, 1))
    return [
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
        rtnetlink.describe_link(index, attachment.alias, tuple(conf)),
        rtnetlink.new_route(index, attachment.address, 32),
        rtnetlink.new_neighbour(index, attachment.address, attachment.mac),
    ]


def pod_messages(attachment: Attachment, index: int) -> "list[bytes]":
    """The pod's half, in order."""
    routes = []
    for text in attachment.routes:
        destination, prefix = ipam.parse_subnet(text)
        routes.append(rtnetlink.new_route(index, destination, prefix, GATEWAY))
    return [
        rtnetlink.link_up(LOOPBACK),
        rtnetlink.link_up(index),
        rtnetlink.new_address(index, attachment.address, 32),
        *routes,
        rtnetlink.new_neighbour(index, GATEWAY, HOST_MAC),
    ]
