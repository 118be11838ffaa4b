"""An attachment as kernel messages: which, and in which order, for one family, for both and for a second interface."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni_plugin import netlink, rtnetlink, wiring
from cni_plugin.attachment import Attachment, HostPort
from cni_plugin.ipam import format_address
from tests.cni_plugin.samples import attachment

INDEX = 100_007
TABLE = 123_456
FAMILIES = [["10.1.0.5"], ["fd00::5"], ["10.1.0.5", "fd00::5"]]
DECODERS = {16: ifinfmsg, 19: ifinfmsg, 20: ifaddrmsg, 24: rtmsg, 28: ndmsg, 32: fibmsg}

by_family = pytest.mark.parametrize("texts", FAMILIES, ids="+".join)


def made(*texts: str, **changes: Any) -> Attachment:
    return attachment("c1", "eth0", *texts, **changes)


def decoded(raw: bytes) -> Any:
    """A message as pyroute2 reads it."""
    one = DECODERS[struct.unpack_from("=H", raw, 4)[0]](raw)
    one.decode()
    return one


def story(messages: list[bytes]) -> list[str]:
    """The messages in the words of ip(8)."""
    return [_line(decoded(each)) for each in messages]


def _line(one: Any) -> str:
    kind = one["header"]["type"]
    if kind in (16, 19):
        if one.get_attr("IFLA_LINKINFO"):
            return "link add"
        return "link up" if one["flags"] else "link set"
    if kind == 20:
        return f"address {one.get_attr('IFA_LOCAL')}/{one['prefixlen']}"
    if kind == 28:
        return f"neighbour {one.get_attr('NDA_DST')} {one.get_attr('NDA_LLADDR')}"
    if kind == 32:
        return f"rule from {one.get_attr('FRA_SRC')}/{one['src_len']} lookup {one.get_attr('FRA_TABLE')}"
    words = [f"route {one.get_attr('RTA_DST') or 'default'}/{one['dst_len']}"]
    for name, key in (("via", "RTA_GATEWAY"), ("table", "RTA_TABLE"), ("metric", "RTA_PRIORITY")):
        if one.get_attr(key):
            words.append(f"{name} {one.get_attr(key)}")
    return " ".join(words)


def specification(raw: bytes, family: int) -> dict[int, bytes]:
    """What a link message says of a family (IFLA_AF_SPEC)."""
    families = netlink.attributes(netlink.attributes(raw, 32)[26], 0)
    return netlink.attributes(families.get(family, b""), 0)


def settings(raw: bytes) -> dict[int, int]:
    """The net.ipv4.conf values of a link message."""
    values = netlink.attributes(specification(raw, 2)[1], 0)
    return {position: struct.unpack("=I", value)[0] for position, value in values.items()}


@by_family
def test_the_node_gets_the_pair_its_description_and_a_way_to_each_address(texts: list[str]) -> None:
    one = made(*texts)
    messages = wiring.host_messages(one, INDEX, 9)
    mac = one.mac.hex(":")
    ways = [[f"route {each}/{'128' if ':' in each else '32'}", f"neighbour {each} {mac}"] for each in texts]
    assert story(messages) == ["link add", "link set", *(line for way in ways for line in way)]
    # The sysctls of IPv6 are written between these two parts, when the link is there.
    assert wiring.LINK_MESSAGES == 2
    pair, description = decoded(messages[0]), decoded(messages[1])
    assert (pair["index"], pair.get_attr("IFLA_IFNAME")) == (INDEX, one.host_link)
    assert pair.get_attr("IFLA_GROUP") == one.group
    peer = pair.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_NET_NS_FD")) == ("eth0", 9)
    assert peer.get_attr("IFLA_ADDRESS") == mac
    assert (description["index"], description.get_attr("IFLA_IFALIAS")) == (INDEX, one.alias)
    for each in map(decoded, messages[2:]):
        assert (each.get_attr("RTA_OIF") if each["header"]["type"] == 24 else each["ifindex"]) == INDEX


@by_family
def test_the_host_end_forwards_and_lets_no_foreign_source_in(texts: list[str]) -> None:
    # forwarding, send_redirects, rp_filter
    assert settings(wiring.host_messages(made(*texts), INDEX, 9)[1]) == {1: 1, 6: 0, 8: 1}


def test_only_a_pod_with_a_host_port_may_be_reached_from_the_loopback_of_the_node() -> None:
    one = made("10.1.0.5", ports=[HostPort("tcp", bytes(4), 80, 80)])
    assert settings(wiring.host_messages(one, INDEX, 9)[1]) == {1: 1, 6: 0, 8: 1, 26: 1}


@by_family
def test_neither_end_gets_a_link_local_address_where_there_is_ipv6(texts: list[str]) -> None:
    one = made(*texts)
    described = [specification(wiring.host_messages(one, INDEX, 9)[1], 10)]
    pod = [each for each in wiring.pod_messages(one, INDEX) if struct.unpack_from("=H", each, 4)[0] == 19]
    described += [specification(each, 10) for each in pod]
    # IFLA_INET6_ADDR_GEN_MODE: IN6_ADDR_GEN_MODE_NONE; without IPv6 nothing, which a kernel without it would refuse.
    assert described == ([{8: b"\1"}] * 2 if "fd00::5" in texts else [{}])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            ["10.1.0.5"],
            [
                *["link up", "link up", "address 10.1.0.5/32"],
                "neighbour 169.254.1.1 02:70:77:00:00:01",
                "route default/0 via 169.254.1.1",
            ],
        ),
        (
            ["fd00::5"],
            [
                *["link up", "link set", "link up", "address fd00::5/128"],
                "neighbour fe80::1 02:70:77:00:00:01",
                "route default/0 via fe80::1",
            ],
        ),
        (
            ["10.1.0.5", "fd00::5"],
            [
                *["link up", "link set", "link up", "address 10.1.0.5/32", "address fd00::5/128"],
                "neighbour 169.254.1.1 02:70:77:00:00:01",
                "neighbour fe80::1 02:70:77:00:00:01",
                "route default/0 via 169.254.1.1",
                "route default/0 via fe80::1",
            ],
        ),
    ],
    ids=map("+".join, FAMILIES),
)
def test_the_pod_gets_links_up_addresses_neighbours_and_routes_in_this_order(
    texts: list[str], expected: list[str]
) -> None:
    messages = wiring.pod_messages(made(*texts), INDEX)
    assert story(messages) == expected
    ups = [one for one in map(decoded, messages) if one["header"]["type"] == 16]
    assert [(one["index"], one["flags"], one["change"]) for one in ups] == [(1, 1, 1), (INDEX, 1, 1)]
    routes = [one for one in map(decoded, messages) if one["header"]["type"] == 24]
    assert {(one.get_attr("RTA_OIF"), one["flags"], one["table"]) for one in routes} == {
        (INDEX, rtnetlink.RTNH_F_ONLINK, 254)
    }
    neighbours = [one for one in map(decoded, messages) if one["header"]["type"] == 28]
    assert {(one["ifindex"], one["state"]) for one in neighbours} == {(INDEX, rtnetlink.NUD_PERMANENT)}


def test_every_gateway_has_one_neighbour() -> None:
    routes = [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
        {"dst": "10.0.0.0/8", "gw": "10.1.0.1"},
        {"dst": "10.9.0.0/16", "gw": "10.1.0.1"},
    ]
    one = made("10.1.0.5", "fd00::5", routes=routes)
    assert list(map(format_address, wiring.gateways(one))) == ["169.254.1.1", "fe80::1", "10.1.0.1"]
    lines = story(wiring.pod_messages(one, INDEX))
    assert [line for line in lines if line.startswith("neighbour")] == [
        f"neighbour {each} 02:70:77:00:00:01" for each in ("169.254.1.1", "fe80::1", "10.1.0.1")
    ]
    # A gateway is known before a route through it is.
    assert max(at for at, line in enumerate(lines) if line.startswith("neighbour")) < min(
        at for at, line in enumerate(lines) if line.startswith("route")
    )


def test_attributes_of_a_route_reach_the_kernel() -> None:
    stated = {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}
    attributes = {"mtu": 1400, "advmss": 1360, "priority": 5, "table": 300, "scope": 200}
    full = {"dst": "10.0.0.0/8", "gw": "169.254.1.1", **attributes}
    plain, told = map(decoded, wiring.pod_messages(made("10.1.0.5", routes=[stated, full]), INDEX)[-2:])
    assert (plain.get_attr("RTA_METRICS"), plain.get_attr("RTA_PRIORITY"), plain["scope"]) == (None, None, 0)
    metrics = told.get_attr("RTA_METRICS")
    assert {name: metrics.get_attr(name) for name in ("RTAX_MTU", "RTAX_ADVMSS")} == {
        "RTAX_MTU": 1400,
        "RTAX_ADVMSS": 1360,
    }
    assert (told.get_attr("RTA_PRIORITY"), told.get_attr("RTA_TABLE"), told["scope"]) == (5, 300, 200)


def test_one_metric_alone_is_told_alone() -> None:
    stated = {"dst": "::/0", "gw": "fe80::1", "advmss": 1220}
    (*_, told) = map(decoded, wiring.pod_messages(made("fd00::5", routes=[stated]), INDEX))
    assert dict(told.get_attr("RTA_METRICS")["attrs"]) == {"RTAX_ADVMSS": 1220}


def test_a_second_interface_has_its_routes_in_a_table_that_its_addresses_choose() -> None:
    one = made("10.1.0.5", "fd00::5", table=TABLE)
    assert story(wiring.pod_messages(one, INDEX))[-4:] == [
        f"route default/0 via 169.254.1.1 table {TABLE}",
        f"route default/0 via fe80::1 table {TABLE}",
        f"rule from 10.1.0.5/32 lookup {TABLE}",
        f"rule from fd00::5/128 lookup {TABLE}",
    ]


def test_other_destinations_of_a_second_interface_are_for_every_source_too() -> None:
    gateway = "169.254.1.1"
    routes = [
        {"dst": "10.0.0.0/8", "gw": gateway},
        {"dst": "10.7.0.0/16", "gw": gateway, "priority": 5},
        {"dst": "10.8.0.0/16", "gw": gateway, "table": 300},
    ]
    lines = story(wiring.pod_messages(made("10.1.0.5", routes=routes, table=TABLE), INDEX))
    assert [line for line in lines if line.startswith("ro")] == [
        f"route 10.0.0.0/8 via {gateway} table {TABLE}",
        f"route 10.0.0.0/8 via {gateway} metric {TABLE}",
        f"route 10.7.0.0/16 via {gateway} table {TABLE} metric 5",
        f"route 10.7.0.0/16 via {gateway} metric 5",
        f"route 10.8.0.0/16 via {gateway} table 300",
    ]


class Answers:
    """Routes of a pod's namespace, as its socket answers for an address."""

    def __init__(self, *prefixes: int) -> None:
        self._bodies = [struct.pack("=BBBBBBBBI", 2, prefix, 0, 0, 254, 0, 0, 1, 0) for prefix in prefixes]
        self.asked: list[bytes] = []

    def route(self, destination: bytes) -> rtnetlink.Match | None:
        self.asked.append(destination)
        return rtnetlink.Match(self._bodies.pop(0)) if self._bodies else None


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [((), False), ((0,), True), ((8, 0), True), ((8, 1), False)],
    ids=["no route", "default of the first", "default of the second", "only others"],
)
def test_the_default_route_is_taken_when_a_family_of_ours_has_one(prefixes: tuple[int, ...], expected: bool) -> None:
    answers: Any = Answers(*prefixes)
    assert wiring.has_default_route(answers, [4, 16]) is expected
    assert answers.asked == [wiring.FAR_AWAY[4], wiring.FAR_AWAY[16]]
