"""Elements of the nft table: golden bytes by the layout of linux/netfilter/nf_tables.h."""

from __future__ import annotations

import sys

import pytest

from cni_plugin import nftables
from cni_plugin.netlink import NLM_F_CREATE
from cni_plugin.nftables import Element

POD, POD6 = bytes((10, 1, 0, 5)), bytes.fromhex("fd00000000000000000000000000000a")
ANYWHERE, ANYWHERE6 = bytes(4), bytes(16)
NODE, NODE6 = bytes((192, 0, 2, 1)), bytes.fromhex("20010db8000000000000000000000001")

WILDCARD, SPECIFIC, HAIRPIN = nftables.host_port_elements(
    POD, [("tcp", ANYWHERE, 8080, 80), ("udp", NODE, 53, 5353)], "pw123"
)
WILDCARD6, SPECIFIC6, HAIRPIN6 = nftables.host_port_elements(
    POD6, [("tcp", ANYWHERE6, 8080, 80), ("udp", NODE6, 53, 5353)], "pw123"
)


@pytest.mark.parametrize(
    ("element", "name", "key", "data", "text"),
    [
        # Each part of a concatenation begins at a multiple of four bytes; ports are big-endian.
        (WILDCARD, "hostport4", "06000000 1f900000", "0a010005 00500000", "tcp . 8080 : 10.1.0.5 . 80"),
        (
            SPECIFIC,
            "hostport4ip",
            "c0000201 11000000 00350000",
            "0a010005 14e90000",
            "192.0.2.1 . udp . 53 : 10.1.0.5 . 5353",
        ),
        (HAIRPIN, "hairpin4", "0a010005 0a010005", "", "10.1.0.5 . 10.1.0.5"),
        (WILDCARD6, "hostport6", "06000000 1f900000", f"{POD6.hex()} 00500000", "tcp . 8080 : fd00::a . 80"),
        (
            SPECIFIC6,
            "hostport6ip",
            f"{NODE6.hex()} 11000000 00350000",
            f"{POD6.hex()} 14e90000",
            "2001:db8::1 . udp . 53 : fd00::a . 5353",
        ),
        (HAIRPIN6, "hairpin6", f"{POD6.hex()} {POD6.hex()}", "", "fd00::a . fd00::a"),
    ],
    ids=["any address", "one address", "hairpin", "any IPv6 address", "one IPv6 address", "IPv6 hairpin"],
)
def test_an_element_has_the_key_and_data_of_its_set(
    element: Element, name: str, key: str, data: str, text: str
) -> None:
    assert element.set == name
    assert element.key == bytes.fromhex(key)
    assert element.data == bytes.fromhex(data)
    assert (element.text, element.comment) == (text, "pw123")


@pytest.mark.parametrize(("protocol", "number"), [("tcp", 6), ("udp", 17), ("sctp", 132)])
def test_protocols_have_their_numbers(protocol: str, number: int) -> None:
    (element, _) = nftables.host_port_elements(POD, [(protocol, ANYWHERE, 1, 1)], "pw")
    assert element.key[0] == number


def test_an_attachment_without_host_ports_has_no_elements() -> None:
    assert nftables.host_port_elements(POD, [], "pw") == []


# Header; nfgenmsg: NFPROTO_INET, version, res_id; TABLE 1, SET 2, ELEMENTS 3 > LIST_ELEM 1 > KEY 1 > VALUE 1,
# DATA 2 > VALUE 1, USERDATA 6 (comment 0, length, text). Nested attributes bear 0x8000. The rest is native order.
@pytest.mark.skipif(sys.byteorder != "little", reason="golden bytes of little-endian machines")
@pytest.mark.parametrize(
    ("raw", "golden"),
    [
        pytest.param(
            nftables._element_message(12, NLM_F_CREATE, WILDCARD),
            "68000000 0c0a 0504 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  0e00 0200 686f7374706f727434 00 0000"
            "  3400 0380  3000 0180  1000 0180 0c00 0100 06000000 1f900000"
            "  1000 0280 0c00 0100 0a010005 00500000  0c00 0600 00 06 707731323300",
            id="add to a map",
        ),
        pytest.param(
            nftables._element_message(12, NLM_F_CREATE, HAIRPIN),
            "58000000 0c0a 0504 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  0d00 0200 6861697270696e34 00 000000"
            "  2400 0380  2000 0180  1000 0180 0c00 0100 0a010005 0a010005  0c00 0600 00 06 707731323300",
            id="add to a set",
        ),
        pytest.param(
            nftables._element_message(14, 0, SPECIFIC, with_data=False),
            "50000000 0e0a 0500 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  1000 0200 686f7374706f7274346970 00"
            "  1c00 0380  1800 0180  1400 0180 1000 0100 c0000201 11000000 00350000",
            id="delete",
        ),
        pytest.param(
            nftables._element_message(13, 0, HAIRPIN, with_data=False),
            "4c000000 0d0a 0100 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  0d00 0200 6861697270696e34 00 000000"
            "  1800 0380  1400 0180  1000 0180 0c00 0100 0a010005 0a010005",
            id="get, which asks for no acknowledgement",
        ),
        pytest.param(
            nftables._element_message(12, NLM_F_CREATE, SPECIFIC6),
            "84000000 0c0a 0504 00000000 00000000  01 00 0000"
            "  0d00 0100 706f647769726531 00000000  1000 0200 686f7374706f7274366970 00"
            "  5000 0380  4c00 0180  2000 0180 1c00 0100 20010db8000000000000000000000001 11000000 00350000"
            "  1c00 0280 1800 0100 fd00000000000000000000000000000a 14e90000  0c00 0600 00 06 707731323300",
            id="add to a map of IPv6",
        ),
    ],
)
def test_element_messages_are_byte_for_byte_what_the_headers_say(raw: bytes, golden: str) -> None:
    assert raw.hex(" ") == bytes.fromhex(golden).hex(" ")


def test_no_elements_are_no_question_to_the_kernel() -> None:
    # It answers nothing to an empty batch: the wait would not end.
    nft = nftables.Nft()
    nft._socket.raw.settimeout(2)
    nft.add([])
    nft.remove([])
    nft.close()
