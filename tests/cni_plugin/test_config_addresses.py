"""The section `ipam` of a configuration: range sets of both families, exclusions, routes, and ranges of the runtime."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugin.spec import SUPPORTED_VERSIONS, parse_version
from tests.cni_plugin.samples import fails, ipam_with, network

V4, V6 = {"subnet": "10.1.0.0/24"}, {"subnet": "fd00:1::/64"}


def ranges(*sets: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return ipam_with(ranges=list(sets), **changes)


def routes(*stated: Any, sets: list[list[dict[str, Any]]] | None = None) -> list[dict[str, Any]]:
    return network(**ipam_with(ranges=sets or [[V4], [V6]], routes=list(stated))).routes


def test_range_sets_arrive_in_their_order_with_what_is_excluded_of_their_family() -> None:
    found = network(
        **ranges(
            [V6 | {"gateway": "fd00:1::1"}],
            [V4 | {"rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.20"}, {"subnet": "10.2.0.0/30"}],
            exclude=["10.1.0.12", "fd00:1::8/125", "192.0.2.0/24"],
        )
    )
    assert [str(each) for each in found.range_sets] == [
        "fd00:1::1-fd00:1::ffff:ffff:ffff:ffff",
        "10.1.0.10-10.1.0.20, 10.2.0.1-10.2.0.2",
    ]
    assert [each.size() for each in found.range_sets] == [2**64 - 1 - 1 - 8, 11 - 1 + 2]
    assert found.widths() == [4, 16]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(ipam_with(exclude={}), ["exclude {} must be of type list"], id="exclude an object"),
        pytest.param(ipam_with(exclude=["10.1.0.x"]), ["ipam.exclude: "], id="exclude no address"),
        pytest.param(ipam_with(exclude=["fd00::1/64"]), ["ipam.exclude: ", "host bits"], id="exclude host bits"),
        pytest.param(ipam_with(ranges=None), ["ipam.ranges must be"], id="missing"),
        pytest.param(ranges(), ["ipam.ranges must be"], id="empty"),
        pytest.param(ranges([]), ["ipam.ranges must be"], id="empty set"),
        pytest.param(ranges([V4], []), ["ipam.ranges must be"], id="empty second set"),
        pytest.param(ipam_with(ranges=[V4]), ["ipam.ranges must be"], id="flat"),
        pytest.param(ipam_with(ranges=[[5]]), ["ipam.ranges[0][0] is no object"], id="number"),
        pytest.param(ipam_with(ranges=[[{}]]), ["ipam.ranges[0][0]: None is no subnet"], id="no subnet"),
        pytest.param(ranges([V4], [{"subnet": "fd00::1/64"}]), ["ipam.ranges[1][0]", "host bits"], id="host bits"),
        pytest.param(ranges([V4 | {"gateway": "fd00::1"}]), ["gateway fd00::1 is outside"], id="gateway of IPv6"),
        pytest.param(ranges([V6 | {"rangeEnd": "10.1.0.9"}]), ["rangeEnd 10.1.0.9 is outside"], id="end of IPv4"),
        pytest.param(
            ranges([V4, V6]),
            ["ipam.ranges[0][1]: fd00:1::/64 is of another family than 10.1.0.0/24 in the same set"],
            id="mixed families",
        ),
        pytest.param(
            ranges([V4, {"subnet": "10.1.0.0/25"}]),
            ["the range of 10.1.0.0/25 overlaps that of 10.1.0.0/24"],
            id="overlap in a set",
        ),
        pytest.param(
            ranges([V4], [V6], [{"subnet": "10.1.0.128/25"}]),
            ["the range of 10.1.0.128/25 overlaps that of 10.1.0.0/24"],
            id="overlap across sets",
        ),
        pytest.param(
            ranges([V6], [{"subnet": "fd00:1::/80"}]),
            ["the range of fd00:1::/80 overlaps that of fd00:1::/64"],
            id="overlap of IPv6",
        ),
        pytest.param(ipam_with(routes={}), ["routes {} must be of type list"], id="routes an object"),
        pytest.param(ipam_with(routes=["0.0.0.0/0"]), ["ipam.routes[0] is no object"], id="route a string"),
        pytest.param(ipam_with(routes=[{}]), ["ipam.routes[0]: None is no subnet"], id="route without dst"),
        pytest.param(ipam_with(routes=[{"dst": "10.0.0.0/33"}]), ["ipam.routes[0]", "0-32"], id="route dst"),
        pytest.param(ipam_with(routes=[{"dst": "::/0"}]), ["dst ::/0 is of a family that no range"], id="route family"),
        pytest.param(
            ipam_with(routes=[{"dst": "0.0.0.0/0", "gw": "fd00::1"}]),
            ["gw fd00::1 is of another family than dst 0.0.0.0/0"],
            id="route gateway family",
        ),
        pytest.param(ipam_with(routes=[{"dst": "0.0.0.0/0", "gw": 5}]), ["ipam.routes[0]: 5"], id="route gateway"),
        *[
            pytest.param(
                ipam_with(routes=[{"dst": "10.0.0.0/8"}, {"dst": "0.0.0.0/0", key: value}]),
                [f"ipam.routes[1]: {key} {value} is out of range"],
                id=f"route {key} {value}",
            )
            for key in ("mtu", "advmss", "priority", "table", "scope")
            for value in (-1, 1 << 32)
        ],
        *[
            pytest.param(ipam_with(routes=[{"dst": "0.0.0.0/0", "mtu": value}]), ["mtu", "type int"], id=f"mtu {value}")
            for value in ("1400", 1.5, True)
        ],
        *[
            pytest.param(
                ipam_with(routes=[{"dst": "0.0.0.0/0", "scope": scope}]),
                [f"scope {scope}", "link or host"],
                id=f"{scope}",
            )
            for scope in (253, 254, 255, 256)
        ],
    ],
)
def test_a_wrong_value_is_code_7_that_names_it(changes: dict[str, Any], words: list[str]) -> None:
    with fails(7, *words):
        network(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (ipam_with(routes=[{"dst": "0.0.0.0/0", "metric": 5}]), ["ipam.routes[0].metric with value 5", "known here"]),
        (ranges([V4], [V6 | {"gatway": "fd00::1"}]), ["ipam.ranges[1][0].gatway", "did you mean gateway?"]),
    ],
    ids=["route", "range"],
)
def test_an_unknown_key_is_code_2_with_its_place(changes: dict[str, Any], words: list[str]) -> None:
    with fails(2, *words):
        network(**changes)


@pytest.mark.parametrize("seconds", [0, 1, 3600])
def test_a_cooldown_within_the_limit_is_taken(seconds: int) -> None:
    assert network(**ipam_with(cooldownSeconds=seconds)).cooldown == seconds


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
@pytest.mark.parametrize("other", [{"subnet": "10.2.0.0/24"}, V6], ids=["same family", "other family"])
def test_an_old_result_holds_one_address_of_a_family(version: str, other: dict[str, Any]) -> None:
    changes = ranges([V4], [other])
    if parse_version(version) < (0, 3, 0) and other is not V6:
        with fails(7, f"a result of CNI {version} holds one address of a family"):
            network(cniVersion=version, **changes)
    else:
        assert len(network(cniVersion=version, **changes).range_sets) == 2


@pytest.mark.parametrize(
    ("sets", "stated", "expected"),
    [
        pytest.param([[V4]], [], [{"dst": "0.0.0.0/0"}], id="IPv4"),
        pytest.param([[V6]], [], [{"dst": "::/0"}], id="IPv6"),
        pytest.param([[V6], [V4]], [], [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}], id="both"),
        pytest.param([[V4]], ["10.0.0.0/8"], [{"dst": "10.0.0.0/8"}], id="not beside another one"),
        pytest.param(
            [[V4], [V6]], ["10.0.0.0/8"], [{"dst": "10.0.0.0/8"}, {"dst": "::/0"}], id="for the family without"
        ),
    ],
)
def test_a_family_without_routes_has_its_default_route(
    sets: list[list[dict[str, Any]]], stated: list[str], expected: list[dict[str, Any]]
) -> None:
    assert routes(*({"dst": text} for text in stated), sets=sets) == expected


def test_a_route_keeps_its_attributes_in_the_words_of_the_specification() -> None:
    full = {
        "dst": "0.0.0.0/0",
        "gw": "10.1.0.1",
        "mtu": 1400,
        "advmss": 1360,
        "priority": 5,
        "table": 300,
        "scope": 200,
    }
    assert routes(full, {"dst": "FD00::/8", "gw": "FD00:0::1"}) == [full, {"dst": "fd00::/8", "gw": "fd00::1"}]


def test_attributes_that_say_nothing_go() -> None:
    empty = {"dst": "0.0.0.0/0", "gw": "", "mtu": 0, "advmss": None, "priority": 0, "table": 0, "scope": 0}
    assert routes(empty, sets=[[V4]]) == [{"dst": "0.0.0.0/0"}]


def test_host_bits_of_a_destination_are_cleared() -> None:
    assert routes({"dst": "10.0.0.9/8"}, {"dst": "fd00:1::9/64"}) == [{"dst": "10.0.0.0/8"}, {"dst": "fd00:1::/64"}]


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ({}, {}, 1),
        ({}, {"gw": "10.1.0.1"}, 1),
        ({"mtu": 1400}, {"mtu": 1300}, 1),
        ({"table": 5}, {"table": 5}, 1),
        ({"table": 5}, {}, 2),
        ({"priority": 5}, {"priority": 6}, 2),
    ],
    ids=str,
)
def test_what_the_kernel_would_take_for_one_route_is_one_and_the_first_counts(
    first: dict[str, Any], second: dict[str, Any], count: int
) -> None:
    default = {"dst": "0.0.0.0/0"}
    assert routes(default | first, default | second, sets=[[V4]]) == [default | first, default | second][:count]


def test_ranges_of_the_runtime_come_before_those_of_the_network() -> None:
    found = network(runtimeConfig={"ipRanges": [[V6], [{"subnet": "10.7.0.0/30"}]]}, **ipam_with(exclude=["10.7.0.1"]))
    assert [str(each) for each in found.range_sets] == [
        "fd00:1::1-fd00:1::ffff:ffff:ffff:ffff",
        "10.7.0.1-10.7.0.2",
        "10.1.0.1-10.1.0.254",
    ]
    assert found.range_sets[1].size() == 1


@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC", "STATUS"])
def test_a_network_may_leave_its_ranges_to_the_runtime(command: str) -> None:
    changes: dict[str, Any] = {
        "capabilities": {"ipRanges": True},
        "prevResult": {} if command == "CHECK" else None,
        "ipam": {},
    }
    if command == "ADD":
        assert [str(each) for each in network(runtimeConfig={"ipRanges": [[V4]]}, **changes).range_sets] == [
            "10.1.0.1-10.1.0.254"
        ]
        with fails(7, "ipam.ranges must be a list of range sets"):
            network(**changes)
    else:
        assert network(command, **changes).range_sets == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param("rubbish", ["runtimeConfig.ipRanges must be"], id="a string"),
        pytest.param([V4], ["runtimeConfig.ipRanges must be"], id="flat"),
        pytest.param([[V4, V6]], ["runtimeConfig.ipRanges[0][1]", "another family"], id="mixed"),
        pytest.param([[{"subnet": "10.0.0.0/8"}]], ["10.1.0.0/24 overlaps that of 10.0.0.0/8"], id="overlap"),
    ],
)
def test_wrong_ranges_of_the_runtime_are_named(given: Any, words: list[str]) -> None:
    with fails(7, *words):
        network(runtimeConfig={"ipRanges": given})
