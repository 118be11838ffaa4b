"""Messages to the kernel: golden bytes by the layout of linux/rtnetlink.h, and what another decoder makes of them."""

from __future__ import annotations

import errno
import struct
import sys
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni_plugin import netlink, rtnetlink

ADDRESS = bytes((10, 1, 0, 5))
GATEWAY = bytes((169, 254, 1, 1))
HOST_MAC = bytes.fromhex("027077000001")
POD_MAC = bytes.fromhex("0a580a010005")
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
        (rtnetlink.new_route(7, ADDRESS6, 128), {"RTA_DST": "fd00::a", "family": 10, "dst_len": 128}),
    ],
    ids=["on link", "default", "subnet", "IPv6"],
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
    assert (held.get_attr("IFA_LOCAL"), held.get_attr("IFA_ADDRESS")) == (text, text)
    near = decoded(ndmsg, rtnetlink.new_neighbour(3, address, POD_MAC))
    assert (near["family"], near["ifindex"], near["state"]) == (family, 3, 0x80)
    assert (near.get_attr("NDA_DST"), near.get_attr("NDA_LLADDR")) == (text, "0a:58:0a:01:00:05")


def test_a_long_alias_is_cut_to_what_the_kernel_takes() -> None:
    one = decoded(ifinfmsg, rtnetlink.describe_link(3, "x" * 300, ()))
    assert one.get_attr("IFLA_IFALIAS") == "x" * 255


@pytest.mark.parametrize("size", range(9))
def test_attributes_are_padded_to_four_bytes_and_read_back(size: int) -> None:
    raw = netlink.attribute(5, b"x" * size) + netlink.attribute(6 | 0x8000, b"y")
    assert len(raw) % 4 == 0
    assert netlink.attributes(b"head" + raw, 4) == {5: b"x" * size, 6: b"y"}


@pytest.mark.parametrize("raw", [b"", b"\1\0", b"\0\0\0\0\0\0\0\0", b"\3\0\1\0"], ids=["none", "half", "zero", "three"])
def test_torn_attributes_end_the_reading(raw: bytes) -> None:
    assert netlink.attributes(raw, 0) == {}


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


def test_an_acknowledgement_is_no_refusal() -> None:
    assert netlink.refusal(bytes(20), 0x100, 0) is None


def test_a_refusal_carries_errno_text_and_position() -> None:
    body = struct.pack("=i", -errno.EEXIST) + bytes(16) + netlink.attribute(1, b"File is there\0")
    plain, told = netlink.refusal(body[:20], 0x100, 2), netlink.refusal(body, 0x300, 3)
    assert plain is not None
    assert told is not None
    assert (plain.errno, plain.position, str(plain)) == (errno.EEXIST, 2, "File exists")
    assert (told.errno, told.position, str(told)) == (errno.EEXIST, 3, "File exists (File is there)")
