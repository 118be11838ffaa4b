"""Requests to ctnetlink: golden bytes by the layout of linux/netfilter/nfnetlink_conntrack.h, and what selects whom."""

from __future__ import annotations

import errno
import sys

import pytest

from cni_plugin import conntrack
from cni_plugin.netlink import Refusal, Socket, attribute

POD = bytes((10, 1, 0, 5))
NODE = bytes((192, 0, 2, 2))
CLIENT = bytes((198, 51, 100, 1))
POD6 = bytes.fromhex("fd00000000000000000000000000000a")

little = pytest.mark.skipif(sys.byteorder != "little", reason="golden bytes are those of little-endian machines")


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(parts))


def direction(kind: int, source: bytes, destination: bytes, protocol: int, sport: int, dport: int) -> bytes:
    """A tuple as the kernel dumps it."""
    first = 1 if len(source) == 4 else 3
    ends = nested(1, attribute(first, source), attribute(first + 1, destination))
    ports = attribute(2, sport.to_bytes(2, "big")), attribute(3, dport.to_bytes(2, "big"))
    return nested(kind, ends, nested(2, attribute(1, bytes((protocol,))), *ports))


def entry(*parts: bytes, family: int = 2) -> bytes:
    """The body of a dumped entry."""
    return bytes((family, 0, 0, 0)) + b"".join(parts)


def status(value: int) -> bytes:
    return attribute(3, value.to_bytes(4, "big"))


# nfgenmsg: AF_INET, version, res_id; TUPLE_ORIG 1 or TUPLE_REPLY 2 > TUPLE_IP 1 > V4_SRC 1 or V4_DST 2;
# FILTER 25 > flags of the same direction: CTA_IP_SRC bit 0, CTA_IP_DST bit 1. Nested ones bear 0x8000.
@little
@pytest.mark.parametrize(
    ("position", "golden"),
    [
        pytest.param(0, "1000 0180 0c00 0180 0800 0100 0a010005  0c00 1980 0800 0100 01000000", id="source"),
        pytest.param(1, "1000 0180 0c00 0180 0800 0200 0a010005  0c00 1980 0800 0100 02000000", id="destination"),
        pytest.param(2, "1000 0280 0c00 0180 0800 0100 0a010005  0c00 1980 0800 0200 01000000", id="reply source"),
        pytest.param(3, "1000 0280 0c00 0180 0800 0200 0a010005  0c00 1980 0800 0200 02000000", id="reply destination"),
    ],
)
def test_an_address_is_selected_in_each_role(position: int, golden: str) -> None:
    filters = conntrack._address_filters(POD)
    assert len(filters) == 4
    assert filters[position].hex(" ") == bytes.fromhex("02 00 0000" + golden).hex(" ")


# TUPLE_PROTO 2 > NUM 1, DST_PORT 3 (big-endian); flags CTA_PROTO_NUM bit 3, CTA_PROTO_DST_PORT bit 5.
@little
@pytest.mark.parametrize(
    ("target", "golden"),
    [
        pytest.param(
            NODE,
            "02 00 0000 2400 0180  1400 0280 0500 0100 11000000 0600 0300 1f900000  0c00 0180 0800 0200 c0000202"
            "  0c00 1980 0800 0100 2a000000",
            id="on one address",
        ),
        pytest.param(
            bytes(16),
            "0a 00 0000 1800 0180  1400 0280 0500 0100 11000000 0600 0300 1f900000  0c00 1980 0800 0100 28000000",
            id="on any, IPv6",
        ),
    ],
)
def test_a_port_is_selected_by_protocol_and_original_destination(target: bytes, golden: str) -> None:
    assert conntrack._port_filter(17, 8080, target).hex(" ") == bytes.fromhex(golden).hex(" ")


def test_an_entry_is_named_by_family_tuple_zone_and_id() -> None:
    tuple_ = direction(1, CLIENT, NODE, 17, 1000, 8080)
    zone, number = attribute(18, b"\0\7"), attribute(12, b"\1\2\3\4")
    dumped = entry(tuple_, direction(2, POD, CLIENT, 17, 80, 1000), status(8), zone, number)
    assert conntrack._identity(dumped) == entry(tuple_, zone, number)
    assert conntrack._identity(entry(tuple_, status(8), number)) == entry(tuple_, number)


def test_the_addresses_of_an_entry_are_those_of_both_directions() -> None:
    dumped = entry(direction(1, CLIENT, NODE, 17, 1000, 8080), direction(2, POD, CLIENT, 17, 80, 1000))
    assert conntrack._all_addresses(dumped) == [CLIENT, NODE, POD, CLIENT]
    assert conntrack._all_addresses(entry(direction(1, POD6, POD6, 6, 1, 2), family=10)) == [POD6, POD6]
    assert conntrack._all_addresses(entry()) == []


ASSURED = 0xE


@pytest.mark.parametrize(
    ("dumped", "leads"),
    [
        pytest.param(entry(direction(1, CLIENT, NODE, 17, 1, 8080), status(ASSURED)), True, id="udp"),
        pytest.param(entry(direction(1, CLIENT, NODE, 6, 1, 8080), status(ASSURED)), False, id="another protocol"),
        pytest.param(entry(direction(1, CLIENT, NODE, 17, 8080, 1), status(ASSURED)), False, id="the source's port"),
        pytest.param(entry(direction(1, NODE, CLIENT, 17, 1, 8080), status(ASSURED)), False, id="another address"),
        pytest.param(entry(direction(2, CLIENT, NODE, 17, 1, 8080), status(ASSURED)), False, id="a reply"),
        pytest.param(entry(), False, id="nothing"),
    ],
)
def test_an_entry_leads_to_a_udp_port(dumped: bytes, leads: bool) -> None:
    assert conntrack._leads_to(dumped, 17, 8080, [POD, NODE]) is leads


@pytest.mark.parametrize("protocol", [6, 132])
def test_an_established_conversation_is_left_to_the_node(protocol: int) -> None:
    tuple_ = direction(1, CLIENT, NODE, protocol, 1, 8080)
    assert not conntrack._leads_to(entry(tuple_, status(ASSURED)), protocol, 8080, [NODE])
    assert conntrack._leads_to(entry(tuple_, status(0xA)), protocol, 8080, [NODE])
    assert conntrack._leads_to(entry(tuple_), protocol, 8080, [NODE])


class Refusing(Socket):
    """A kernel that answers every request with one error."""

    code = 0

    def ask(self, request: bytes) -> bytes:
        raise Refusal(self.code, "", 0)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP])
def test_a_kernel_without_ctnetlink_has_nothing_to_remove(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refusing, "code", code)
    monkeypatch.setattr(conntrack, "Socket", Refusing)
    assert conntrack.flush([POD, POD6], [(17, bytes(4), 53)]) == (0, True)


@pytest.mark.parametrize("code", [errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT])
def test_a_kernel_without_netfilter_has_nothing_to_remove(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> Socket:
        raise OSError(code, "no such socket")

    monkeypatch.setattr(conntrack, "Socket", refuse)
    assert conntrack.flush([POD], []) == (0, True)


def test_another_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refusing, "code", errno.EPERM)
    monkeypatch.setattr(conntrack, "Socket", Refusing)
    with pytest.raises(Refusal, match="not permitted"):
        conntrack.flush([POD], [])


def test_what_takes_too_long_is_told_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "_SECONDS", -1)
    table = conntrack._Table(Socket(12))
    try:
        # The time is up before the first of these: nothing is asked of the kernel.
        assert table.remove_filtered(conntrack._address_filters(POD)) is True
        assert list(table.dump(bytes(4), lambda _: True)) == []
        assert table.remove([entry(direction(1, CLIENT, NODE, 17, 1, 8080))]) == 0
        assert not table.complete
    finally:
        table.socket.close()
