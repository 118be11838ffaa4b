"""Messages to the kernel: golden bytes by the layout of linux/rtnetlink.h, and what another decoder makes of them."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni_plugin import netlink, rtnetlink

ADDRESS = bytes((10, 1, 0, 5))
GATEWAY = bytes((169, 254, 1, 1))
HOST_MAC = bytes.fromhex("027077000001")
POD_MAC = bytes.fromhex("0a580a010005")
GATEWAY6 = bytes.fromhex("fe800000000000000000000000000001")
ADDRESS6 = bytes.fromhex("fd00000000000000000000000000000a")

little = pytest.mark.skipif(sys.byteorder != "little", reason="golden bytes are those of little-endian machines")


def decoded(message_class: Any, raw: bytes) -> Any:
    one = message_class(raw)
    one.decode()
    return one


def header(one: Any) -> tuple[int, int, int]:
    return one["header"]["type"], one["header"]["flags"], one["header"]["length"]


# Header: length (4), type (2), flags (2), sequence (4), port (4); then the body.
@little
@pytest.mark.parametrize(
    ("raw", "golden"),
    [
        pytest.param(
            rtnetlink.link_up(1),
            # ifinfomsg: family, pad, type, index 1, flags IFF_UP, change IFF_UP
            "20000000 1000 0100 00000000 00000000  00 00 0000 01000000 01000000 01000000",
            id="link up",
        ),
        pytest.param(
            rtnetlink.link_down(258),
            "20000000 1000 0100 00000000 00000000  00 00 0000 02010000 00000000 01000000",
            id="link down",
        ),
        pytest.param(
            rtnetlink.delete_link(5),
            "20000000 1100 0100 00000000 00000000  00 00 0000 05000000 00000000 00000000",
            id="delete link",
        ),
        pytest.param(
            rtnetlink.new_address(7, ADDRESS, 32),
            # ifaddrmsg: AF_INET, /32, flags, scope, index; IFA_LOCAL 2, IFA_ADDRESS 1; CREATE | EXCL | REQUEST
            "28000000 1400 0106 00000000 00000000  02 20 00 00 07000000  0800 0200 0a010005  0800 0100 0a010005",
            id="address",
        ),
        pytest.param(
            rtnetlink.new_route(7, ADDRESS, 32),
            # rtmsg: AF_INET, dst /32, src /0, tos, main table, protocol 112, scope link, unicast, flags
            "2c000000 1800 0106 00000000 00000000  02 20 00 00 fe 70 fd 01 00000000"
            "  0800 0100 0a010005  0800 0400 07000000",
            id="route on link",
        ),
        pytest.param(
            rtnetlink.new_route(7, bytes(4), 0, GATEWAY),
            # scope universe, RTNH_F_ONLINK; no RTA_DST, RTA_GATEWAY 5, RTA_OIF 4
            "2c000000 1800 0106 00000000 00000000  02 00 00 00 fe 70 00 01 04000000"
            "  0800 0500 a9fe0101  0800 0400 07000000",
            id="default route",
        ),
        pytest.param(
            rtnetlink.new_neighbour(7, ADDRESS, POD_MAC),
            # ndmsg: AF_INET, pad, index, NUD_PERMANENT, flags, type; NDA_LLADDR padded; CREATE | REPLACE | REQUEST
            "30000000 1c00 0105 00000000 00000000  02 00 0000 07000000 8000 00 00"
            "  0800 0100 0a010005  0a00 0200 0a580a010005 0000",
            id="neighbour",
        ),
        pytest.param(
            rtnetlink.describe_link(7, "ab", ((rtnetlink.FORWARDING, 1), (rtnetlink.ROUTE_LOCALNET, 1))),
            # IFLA_IFALIAS 20; IFLA_AF_SPEC 26 > AF_INET 2 > IFLA_INET_CONF 1 > position: value
            "44000000 1300 0100 00000000 00000000  00 00 0000 07000000 00000000 00000000"
            "  0600 1400 6162 0000  1c00 1a00  1800 0200  1400 0100  0800 0100 01000000  0800 1a00 01000000",
            id="alias and settings",
        ),
        pytest.param(
            rtnetlink.new_veth("a", 256, HOST_MAC, 1500, 0x7077, "b", POD_MAC, 9),
            # IFLA_IFNAME 3, ADDRESS 1, MTU 4, GROUP 27, LINKINFO 18 > KIND 1, DATA 2 > PEER 1 > ifinfomsg, NET_NS_FD 28
            "8c000000 1000 0106 00000000 00000000  00 00 0000 00010000 01000000 01000000"
            "  0600 0300 6100 0000  0a00 0100 027077000001 0000  0800 0400 dc050000  0800 1b00 77700000"
            "  4800 1200  0800 0100 76657468  3c00 0200  3800 0100  00 00 0000 00010000 00000000 00000000"
            "  0600 0300 6200 0000  0a00 0100 0a580a010005 0000  0800 0400 dc050000  0800 1c00 09000000",
            id="veth pair",
        ),
        pytest.param(
            rtnetlink.new_address(7, ADDRESS6, 128),
            # ifaddrmsg: AF_INET6, /128, IFA_F_NODAD, scope, index
            "40000000 1400 0106 00000000 00000000  0a 80 02 00 07000000"
            "  1400 0200 fd00000000000000000000000000000a  1400 0100 fd00000000000000000000000000000a",
            id="IPv6 address without duplicate address detection",
        ),
        pytest.param(
            rtnetlink.new_route(7, bytes(16), 0, GATEWAY6),
            "38000000 1800 0106 00000000 00000000  0a 00 00 00 fe 70 00 01 04000000"
            "  1400 0500 fe800000000000000000000000000001  0800 0400 07000000",
            id="IPv6 default route",
        ),
        pytest.param(
            rtnetlink.new_route(7, bytes((10, 0, 0, 0)), 8, GATEWAY, 300, 5, ((2, 1400), (8, 1360)), 200),
            # Table 0 in the header, RTA_TABLE 15; RTA_PRIORITY 6; RTA_METRICS 8 > RTAX_MTU 2, RTAX_ADVMSS 8
            "58000000 1800 0106 00000000 00000000  02 08 00 00 00 70 c8 01 04000000"
            "  0800 0100 0a000000  0800 0500 a9fe0101  0800 0400 07000000  0800 0f00 2c010000  0800 0600 05000000"
            "  1400 0800  0800 0200 78050000  0800 0800 50050000",
            id="route with table, priority and metrics",
        ),
        pytest.param(
            rtnetlink.new_route(7, bytes(4), 0, GATEWAY, 255),
            "2c000000 1800 0106 00000000 00000000  02 00 00 00 ff 70 00 01 04000000"
            "  0800 0500 a9fe0101  0800 0400 07000000",
            id="route in a table that the header holds",
        ),
        pytest.param(
            rtnetlink.source_rule(rtnetlink.RTM_NEWRULE, ADDRESS, 123_456),
            # fib_rule_hdr: AF_INET, dst /0, src /32, tos, table 0, reserved, FR_ACT_TO_TBL, flags; CREATE | REQUEST
            # FRA_SRC 2, FRA_TABLE 15, FRA_PRIORITY 6, FRA_PROTOCOL 21
            "3c000000 2000 0104 00000000 00000000  02 00 20 00 00 00 00 01 00000000"
            "  0800 0200 0a010005  0800 0f00 40e20100  0800 0600 204e0000  0500 1500 70 000000",
            id="rule by source",
        ),
        pytest.param(
            rtnetlink.source_rule(rtnetlink.RTM_DELRULE, ADDRESS6, 300),
            "48000000 2100 0100 00000000 00000000  0a 00 80 00 00 00 00 01 00000000"
            "  1400 0200 fd00000000000000000000000000000a  0800 0f00 2c010000  0800 0600 204e0000  0500 1500 70 000000",
            id="removal of a rule by IPv6 source",
        ),
        pytest.param(
            rtnetlink.no_link_local(7),
            # IFLA_AF_SPEC 26 > AF_INET6 10 > IFLA_INET6_ADDR_GEN_MODE 8: IN6_ADDR_GEN_MODE_NONE 1
            "30000000 1300 0100 00000000 00000000  00 00 0000 07000000 00000000 00000000"
            "  1000 1a00  0c00 0a00  0500 0800 01 000000",
            id="no link-local address",
        ),
        pytest.param(
            rtnetlink.describe_link(7, "ab", ((rtnetlink.FORWARDING, 1),), ipv6=True),
            "48000000 1300 0100 00000000 00000000  00 00 0000 07000000 00000000 00000000"
            "  0600 1400 6162 0000  2000 1a00"
            "  1000 0200  0c00 0100  0800 0100 01000000  0c00 0a00  0500 0800 01 000000",
            id="alias and settings of both families",
        ),
    ],
)
def test_messages_are_byte_for_byte_what_the_headers_say(raw: bytes, golden: str) -> None:
    assert raw.hex(" ") == bytes.fromhex(golden).hex(" ")


def test_a_veth_pair_decodes_to_what_was_asked_for() -> None:
    one = decoded(ifinfmsg, rtnetlink.new_veth("pw0", 100_001, HOST_MAC, 1400, 0x7077, "eth0", POD_MAC, 9))
    assert header(one)[:2] == (16, 0x601)
    assert (one["index"], one["flags"], one["change"]) == (100_001, 1, 1)
    assert one.get_attr("IFLA_IFNAME") == "pw0"
    assert one.get_attr("IFLA_ADDRESS") == "02:70:77:00:00:01"
    assert (one.get_attr("IFLA_MTU"), one.get_attr("IFLA_GROUP")) == (1400, 0x7077)
    information = one.get_attr("IFLA_LINKINFO")
    assert information.get_attr("IFLA_INFO_KIND") == "veth"
    peer = information.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer["index"], peer["flags"], peer["change"]) == (100_001, 0, 0)
    assert dict(peer["attrs"]) == {
        "IFLA_IFNAME": "eth0",
        "IFLA_ADDRESS": "0a:58:0a:01:00:05",
        "IFLA_MTU": 1400,
        "IFLA_NET_NS_FD": 9,
    }


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            rtnetlink.new_route(7, ADDRESS, 32),
            {"RTA_DST": "10.1.0.5", "RTA_OIF": 7, "scope": 253, "flags": 0, "dst_len": 32, "family": 2},
        ),
        (
            rtnetlink.new_route(7, bytes(4), 0, GATEWAY),
            {"RTA_DST": None, "RTA_GATEWAY": "169.254.1.1", "RTA_OIF": 7, "scope": 0, "flags": 4, "dst_len": 0},
        ),
        (
            rtnetlink.new_route(7, bytes((10, 0, 0, 0)), 8, GATEWAY),
            {"RTA_DST": "10.0.0.0", "RTA_GATEWAY": "169.254.1.1", "dst_len": 8},
        ),
        (rtnetlink.new_route(7, ADDRESS6, 128), {"RTA_DST": "fd00::a", "family": 10, "dst_len": 128, "scope": 253}),
        (
            rtnetlink.new_route(7, bytes(16), 0, GATEWAY6),
            {"RTA_DST": None, "RTA_GATEWAY": "fe80::1", "family": 10, "dst_len": 0, "scope": 0, "flags": 4},
        ),
        (
            rtnetlink.new_route(7, ADDRESS6, 64, GATEWAY6, priority=9, scope=200),
            {"RTA_PRIORITY": 9, "RTA_TABLE": None, "RTA_METRICS": None, "scope": 200, "dst_len": 64},
        ),
    ],
    ids=["on link", "default", "subnet", "IPv6", "IPv6 default", "with priority and scope"],
)
def test_a_route_decodes_to_what_was_asked_for(raw: bytes, expected: dict[str, Any]) -> None:
    one = decoded(rtmsg, raw)
    found = {key: one.get_attr(key) if key.startswith("RTA_") else one[key] for key in expected}
    assert found == expected
    assert (one["table"], one["proto"], one["type"]) == (254, 112, 1)
    assert header(one) == (24, 0x601, len(raw))


@pytest.mark.parametrize(("address", "text", "family"), [(ADDRESS, "10.1.0.5", 2), (ADDRESS6, "fd00::a", 10)])
def test_addresses_and_neighbours_decode_to_what_was_asked_for(address: bytes, text: str, family: int) -> None:
    held = decoded(ifaddrmsg, rtnetlink.new_address(3, address, 32))
    assert (held["family"], held["index"], held["prefixlen"], held["scope"]) == (family, 3, 32, 0)
    # IFA_F_NODAD for IPv6 alone.
    assert held["flags"] == (2 if family == 10 else 0)
    assert (held.get_attr("IFA_LOCAL"), held.get_attr("IFA_ADDRESS")) == (text, text)
    near = decoded(ndmsg, rtnetlink.new_neighbour(3, address, POD_MAC))
    assert (near["family"], near["ifindex"], near["state"]) == (family, 3, 0x80)
    assert (near.get_attr("NDA_DST"), near.get_attr("NDA_LLADDR")) == (text, "0a:58:0a:01:00:05")


@pytest.mark.parametrize("table", [1, 254, 255, 256, 300, 2**32 - 1])
def test_a_table_is_in_the_header_or_where_it_does_not_fit_in_an_attribute(table: int) -> None:
    one = decoded(rtmsg, rtnetlink.new_route(7, bytes(4), 0, GATEWAY, table))
    fits = table < 256
    assert (one["table"], one.get_attr("RTA_TABLE")) == ((table, None) if fits else (0, table))


def test_metrics_decode_to_what_was_asked_for() -> None:
    raw = rtnetlink.new_route(
        7, ADDRESS6, 128, GATEWAY6, metrics=((rtnetlink.RTAX_ADVMSS, 1220), (rtnetlink.RTAX_MTU, 1280))
    )
    assert dict(decoded(rtmsg, raw).get_attr("RTA_METRICS")["attrs"]) == {"RTAX_ADVMSS": 1220, "RTAX_MTU": 1280}


@pytest.mark.parametrize(("address", "text", "bits"), [(ADDRESS, "10.1.0.5", 32), (ADDRESS6, "fd00::a", 128)])
@pytest.mark.parametrize(("kind", "flags"), [(rtnetlink.RTM_NEWRULE, 0x401), (rtnetlink.RTM_DELRULE, 0x1)])
def test_a_rule_decodes_to_what_was_asked_for(address: bytes, text: str, bits: int, kind: int, flags: int) -> None:
    raw = rtnetlink.source_rule(kind, address, 70_000)
    one = decoded(fibmsg, raw)
    assert header(one) == (kind, flags, len(raw))
    assert (one["family"], one["src_len"], one["dst_len"], one["action"]) == (2 if bits == 32 else 10, bits, 0, 1)
    assert (one.get_attr("FRA_SRC"), one.get_attr("FRA_TABLE")) == (text, 70_000)
    assert (one.get_attr("FRA_PRIORITY"), one.get_attr("FRA_PROTOCOL")) == (20_000, 112)


@pytest.mark.parametrize("raw", [rtnetlink.no_link_local(3), rtnetlink.describe_link(3, "x", (), ipv6=True)])
def test_the_mode_of_generated_addresses_decodes_to_none(raw: bytes) -> None:
    families = decoded(ifinfmsg, raw).get_attr("IFLA_AF_SPEC")
    assert families.get_attr("AF_INET6").get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1


def test_a_long_alias_is_cut_to_what_the_kernel_takes() -> None:
    one = decoded(ifinfmsg, rtnetlink.describe_link(3, "x" * 300, ()))
    assert one.get_attr("IFLA_IFALIAS") == "x" * 255


def test_an_answer_about_a_link_is_read() -> None:
    body = struct.pack("=BxHiII", 0, 1, 42, 0x11043, 0)
    for kind, payload in (
        (3, b"eth0\0"),
        (1, POD_MAC),
        (4, struct.pack("=I", 1450)),
        (27, struct.pack("=I", 0x7077)),
        (20, b"podwire c1 eth0\0"),
    ):
        body += netlink.attribute(kind, payload)
    link = rtnetlink.Link(body)
    assert (link.name, link.index, link.mac, link.mtu, link.group) == ("eth0", 42, POD_MAC, 1450, 0x7077)
    assert link.alias == "podwire c1 eth0"
    assert link.flags & rtnetlink.IFF_UP
