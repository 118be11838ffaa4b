"""Answers of the kernel that CHECK and GC read: made here as the kernel makes them, and read from the real one."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from cni_plugin import rtdump, rtnetlink
from cni_plugin.ipam import parse_address
from cni_plugin.netlink import Refusal, attribute

LOOPBACK = 1


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def test_a_route_of_a_dump_is_read_with_all_that_it_has() -> None:
    metrics = attribute(2, number(1400)) + attribute(8, number(1360))
    body = struct.pack("=BBBBBBBBI", 10, 64, 0, 0, 0, 112, 200, 1, 0)
    body += attribute(15, number(300)) + attribute(1, parse_address("fd00::")) + attribute(6, number(5))
    body += attribute(5, parse_address("fe80::1")) + attribute(4, number(7)) + attribute(8, metrics)
    one = rtdump.Route(body)
    assert (one.destination, one.prefix, one.gateway) == (parse_address("fd00::"), 64, parse_address("fe80::1"))
    assert (one.table, one.priority, one.index, one.mtu, one.advmss) == (300, 5, 7, 1400, 1360)
    assert (one.protocol, one.scope) == (112, 200)


def test_a_default_route_has_no_destination_and_its_table_in_the_header() -> None:
    one = rtdump.Route(struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0))
    assert (one.destination, one.prefix, one.gateway, one.table) == (b"", 0, b"", 254)
    assert (one.priority, one.index, one.mtu, one.advmss) == (0, 0, 0, 0)


@pytest.fixture
def host() -> Iterator[rtnetlink.Socket]:
    socket = rtnetlink.Socket()
    yield socket
    socket.close()


def test_the_loopback_of_this_namespace_is_read(host: rtnetlink.Socket) -> None:
    found = {link.name: link for link in rtdump.links(host)}
    assert found["lo"].index == LOOPBACK
    held = [(address, prefix) for address, prefix, _ in rtdump.addresses(host, LOOPBACK)]
    assert (parse_address("127.0.0.1"), 8) in held
    local = [one for one in rtdump.routes(host, rtnetlink.AF_INET) if one.table == 255 and one.index == LOOPBACK]
    assert (parse_address("127.0.0.0"), 8) in [(one.destination, one.prefix) for one in local]


def test_a_link_that_is_not_there_has_no_addresses_and_nobody_near(host: rtnetlink.Socket) -> None:
    with pytest.raises(Refusal, match="No such device"):
        rtdump.addresses(host, 2**31 - 1)
    assert rtdump.neighbour(host, LOOPBACK, parse_address("192.0.2.77")) is None
    assert rtdump.neighbour(host, LOOPBACK, parse_address("2001:db8::77")) is None


def test_strict_checking_ends_with_the_question(host: rtnetlink.Socket) -> None:
    rtdump.addresses(host, LOOPBACK)
    assert host.raw.getsockopt(270, 12) == 0
    # A rule dump of every family would be refused by a strict kernel.
    assert isinstance(rtdump.source_rules(host, rtnetlink.AF_INET), list)
