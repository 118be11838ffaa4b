"""What ADD makes of the addresses that it was given: gateways, MAC and routes of the attachment."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugin import verbs
from cni_plugin.attachment import Attachment
from cni_plugin.ipam import format_address, parse_address
from tests.cni_plugin.samples import attachment, ipam_with, network

V4, V6 = {"subnet": "10.1.0.0/24"}, {"subnet": "fd00:1::/64"}


def settled(*texts: str, sets: list[Any], routes: list[Any] | None = None, **changes: Any) -> Attachment:
    """An attachment of a network with these range sets that got these addresses."""
    one = attachment()
    found = network(**ipam_with(ranges=sets, routes=routes), **changes)
    verbs._settle_addresses(one, found, [parse_address(text) for text in texts])
    return one


def test_each_address_has_the_gateway_of_its_range_or_the_one_that_nobody_holds() -> None:
    sets = [[V6 | {"gateway": "fd00:1::1"}], [V4, {"subnet": "10.2.0.0/24", "gateway": "10.2.0.1"}]]
    one = settled("fd00:1::5", "10.2.0.5", sets=sets)
    assert [(str(each), format_address(each.gateway)) for each in one.addresses] == [
        ("fd00:1::5", "fd00:1::1"),
        ("10.2.0.5", "10.2.0.1"),
    ]
    other = settled("fd00:1::5", "10.1.0.5", sets=sets)
    assert format_address(other.addresses[1].gateway) == "169.254.1.1"


@pytest.mark.parametrize(
    ("texts", "sets", "mac"),
    [
        (["10.1.0.5"], [[V4]], "0a:58:0a:01:00:05"),
        (["fd00:1::5", "10.1.0.5"], [[V6], [V4]], "0a:58:0a:01:00:05"),
        (["10.1.0.6", "10.3.0.5"], [[V4], [{"subnet": "10.3.0.0/24"}]], "0a:58:0a:01:00:06"),
    ],
    ids=["IPv4", "dual stack", "two of a family"],
)
def test_the_mac_tells_the_first_ipv4_address(texts: list[str], sets: list[Any], mac: str) -> None:
    assert settled(*texts, sets=sets).mac.hex(":") == mac


def test_a_requested_mac_counts() -> None:
    one = settled("10.1.0.5", sets=[[V4]], runtimeConfig={"mac": "0a:00:00:00:00:01"})
    assert one.mac.hex(":") == "0a:00:00:00:00:01"


def test_routes_lead_through_the_gateway_of_their_family_unless_they_name_one() -> None:
    routes = [
        {"dst": "0.0.0.0/0", "mtu": 1400},
        {"dst": "fd00::/8"},
        {"dst": "10.0.0.0/8", "gw": "10.1.0.77"},
        {"dst": "fd07::/16", "gw": "fd00:1::77", "table": 300},
    ]
    one = settled("10.1.0.5", "fd00:1::5", sets=[[V4 | {"gateway": "10.1.0.1"}], [V6]], routes=routes)
    assert one.routes == [
        {"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400},
        {"dst": "fd00::/8", "gw": "fe80::1"},
        {"dst": "10.0.0.0/8", "gw": "10.1.0.77"},
        {"dst": "fd07::/16", "gw": "fd00:1::77", "table": 300},
    ]


class Host:
    """A node whose routing tables match everything by a route of this prefix length, or by none."""

    def __init__(self, prefix: int | None) -> None:
        self.prefix = prefix

    def route(self, destination: bytes) -> Host | None:
        return None if self.prefix is None else self


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("10.1.0.5", 32, True),
        ("10.1.0.5", 31, False),
        ("10.1.0.5", 0, False),
        ("10.1.0.5", None, False),
        ("fd00::5", 128, True),
        ("fd00::5", 32, False),
        ("fd00::5", None, False),
    ],
)
def test_an_address_is_somebody_elses_where_the_node_has_a_route_to_it_alone(
    text: str, prefix: int | None, expected: bool
) -> None:
    host: Any = Host(prefix)
    assert verbs._is_foreign(host, parse_address(text)) is expected
