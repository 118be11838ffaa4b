"""An attachment as kernel messages: which, and in which order."""

from __future__ import annotations

import struct
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni_plugin import rtnetlink, wiring
from cni_plugin.attachment import Attachment, HostPort
from tests.cni_plugin.samples import attachment

INDEX = 100_007


def made(**changes: Any) -> Attachment:
    return attachment(address=b"\x0a\1\0\5", **changes)


def kinds(messages: list[bytes]) -> list[int]:
    return [struct.unpack_from("=H", each, 4)[0] for each in messages]


def decoded(message_class: Any, raw: bytes) -> Any:
    one = message_class(raw)
    one.decode()
    return one


def settings(raw: bytes) -> dict[int, int]:
    """The net.ipv4.conf values of a link message."""
    family = rtnetlink.attributes(rtnetlink.attributes(raw, 32)[26], 0)[2]
    values = rtnetlink.attributes(rtnetlink.attributes(family, 0)[1], 0)
    return {position: struct.unpack("=I", value)[0] for position, value in values.items()}


def test_the_node_gets_pair_description_route_and_neighbour_in_this_order() -> None:
    one = made()
    messages = wiring.host_messages(one, INDEX, 9)
    assert kinds(messages) == [
        rtnetlink.RTM_NEWLINK,
        rtnetlink.RTM_SETLINK,
        rtnetlink.RTM_NEWROUTE,
        rtnetlink.RTM_NEWNEIGH,
    ]
    pair, description = decoded(ifinfmsg, messages[0]), decoded(ifinfmsg, messages[1])
    assert (pair["index"], pair.get_attr("IFLA_IFNAME")) == (INDEX, one.host_link)
    assert pair.get_attr("IFLA_GROUP") == one.group
    peer = pair.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_NET_NS_FD")) == ("eth0", 9)
    assert peer.get_attr("IFLA_ADDRESS") == "0a:58:0a:01:00:05"
    assert (description["index"], description.get_attr("IFLA_IFALIAS")) == (INDEX, one.alias)
    route, near = decoded(rtmsg, messages[2]), decoded(ndmsg, messages[3])
    assert (route.get_attr("RTA_DST"), route["dst_len"], route.get_attr("RTA_OIF")) == ("10.1.0.5", 32, INDEX)
    assert route.get_attr("RTA_GATEWAY") is None
    assert (near.get_attr("NDA_DST"), near.get_attr("NDA_LLADDR")) == ("10.1.0.5", "0a:58:0a:01:00:05")


def test_the_host_end_forwards_and_lets_no_foreign_source_in() -> None:
    # forwarding, send_redirects, rp_filter
    assert settings(wiring.host_messages(made(), INDEX, 9)[1]) == {1: 1, 6: 0, 8: 1}


def test_only_a_pod_with_a_host_port_may_be_reached_from_the_loopback_of_the_node() -> None:
    one = made(ports=[HostPort("tcp", bytes(4), 80, 80)])
    assert settings(wiring.host_messages(one, INDEX, 9)[1]) == {1: 1, 6: 0, 8: 1, 26: 1}


def test_the_pod_gets_links_up_address_routes_and_neighbour_in_this_order() -> None:
    messages = wiring.pod_messages(made(routes=["0.0.0.0/0", "10.0.0.0/8"]), INDEX)
    assert kinds(messages) == [
        rtnetlink.RTM_NEWLINK,
        rtnetlink.RTM_NEWLINK,
        rtnetlink.RTM_NEWADDR,
        rtnetlink.RTM_NEWROUTE,
        rtnetlink.RTM_NEWROUTE,
        rtnetlink.RTM_NEWNEIGH,
    ]
    ups = [decoded(ifinfmsg, each) for each in messages[:2]]
    assert [(one["index"], one["flags"], one["change"]) for one in ups] == [(1, 1, 1), (INDEX, 1, 1)]
    address = decoded(ifaddrmsg, messages[2])
    assert (address.get_attr("IFA_LOCAL"), address["prefixlen"], address["index"]) == ("10.1.0.5", 32, INDEX)
    routes = [decoded(rtmsg, each) for each in messages[3:5]]
    assert [(one.get_attr("RTA_DST"), one["dst_len"]) for one in routes] == [(None, 0), ("10.0.0.0", 8)]
    assert {(one.get_attr("RTA_GATEWAY"), one.get_attr("RTA_OIF"), one["flags"]) for one in routes} == {
        ("169.254.1.1", INDEX, rtnetlink.RTNH_F_ONLINK)
    }
    near = decoded(ndmsg, messages[5])
    assert (near.get_attr("NDA_DST"), near.get_attr("NDA_LLADDR")) == ("169.254.1.1", "02:70:77:00:00:01")
    assert (near["ifindex"], near["state"]) == (INDEX, rtnetlink.NUD_PERMANENT)
