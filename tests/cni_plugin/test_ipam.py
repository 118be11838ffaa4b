"""Which addresses a network may hand out, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cni_plugin import ipam
from cni_plugin.ipam import Range, RangeSet


def dotted(number: int) -> str:
    return str(IPv4Address(number))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(None, "no IPv4 address in text form", id="None"),
        pytest.param(5, "no IPv4 address in text form", id="number"),
        pytest.param("fd00::1", "IPv6, which this version does not wire", id="IPv6"),
        pytest.param("", "no IPv4 address", id="empty"),
        pytest.param("10.1.1", "no IPv4 address", id="three parts"),
        pytest.param("10.1.1.1.1", "no IPv4 address", id="five parts"),
        pytest.param("10.1.1.256", "0-255", id="256"),
        pytest.param("10.1.01.1", "leading zeros", id="leading zero"),
        pytest.param("10.1..1", "no IPv4 address", id="empty part"),
        pytest.param(" 10.1.1.1", "no IPv4 address", id="space"),
        pytest.param("10.1.1.-1", "no IPv4 address", id="minus"),
        pytest.param("10.1.1.٣", "no IPv4 address", id="Arabic digit"),
        pytest.param("10.1.1.1\n", "no IPv4 address", id="line feed"),
    ],
)
def test_an_address_that_is_none_says_why(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ipam.parse_address(text)


@given(st.integers(0, 2**32 - 1))
def test_an_address_survives_text_form(number: int) -> None:
    packed = number.to_bytes(4, "big")
    assert ipam.format_address(packed) == dotted(number)
    assert ipam.parse_address(ipam.format_address(packed)) == packed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("10.1.0.0", "form ADDRESS/PREFIX", id="no prefix"),
        pytest.param("10.1.0.0/24/8", "form ADDRESS/PREFIX", id="two slashes"),
        pytest.param(24, "form ADDRESS/PREFIX", id="number"),
        pytest.param("10.1.0.0/33", "prefix length of 0-32", id="33"),
        pytest.param("10.1.0.0/", "prefix length of 0-32", id="empty prefix"),
        pytest.param("10.1.0.0/-1", "prefix length of 0-32", id="negative prefix"),
        pytest.param("10.0.0.0/08", "prefix length of 0-32", id="leading zero"),
        pytest.param("10.1.0.0/²", "prefix length of 0-32", id="superscript"),
        pytest.param("10.1.0.5/24", r"host bits set; the subnet is 10\.1\.0\.0/24", id="host bits"),
        pytest.param("fd00::/64", "IPv6", id="IPv6"),
    ],
)
def test_a_subnet_that_is_none_says_why(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ipam.parse_subnet(text)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_subnets_are_parsed_as_the_standard_library_does(number: int, prefix: int) -> None:
    subnet = IPv4Network((number, prefix), strict=False)
    assert ipam.parse_subnet(str(subnet)) == (subnet.network_address.packed, prefix)


@pytest.mark.parametrize(
    ("subnet", "first", "last"),
    [
        ("10.1.0.0/24", "10.1.0.1", "10.1.0.254"),
        ("10.1.0.0/30", "10.1.0.1", "10.1.0.2"),
        ("10.1.0.0/31", "10.1.0.0", "10.1.0.1"),
        ("10.1.0.7/32", "10.1.0.7", "10.1.0.7"),
        ("10.0.0.0/8", "10.0.0.1", "10.255.255.254"),
    ],
)
def test_network_and_broadcast_address_stay_out_where_there_are_such(subnet: str, first: str, last: str) -> None:
    one = Range(subnet)
    assert (dotted(one.first), dotted(one.last)) == (first, last)


def test_a_part_of_a_subnet_is_bounded_by_start_and_end() -> None:
    one = Range("10.1.0.0/24", "10.1.0.10", "10.1.0.20", "10.1.0.1")
    assert (dotted(one.first), dotted(one.last), dotted(one.gateway)) == ("10.1.0.10", "10.1.0.20", "10.1.0.1")
    assert str(RangeSet([one], [])) == "10.1.0.10-10.1.0.20"
    assert RangeSet([one], []).name() == "10.1.0.10-10.1.0.20"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(
            lambda: Range("10.1.0.0/24", "10.1.0.9", "10.1.0.8"),
            r"rangeStart 10\.1\.0\.9 lies behind rangeEnd 10\.1\.0\.8",
            id="start behind end",
        ),
        pytest.param(lambda: Range("10.1.0.0/24", "10.1.1.1"), "rangeStart 10.1.1.1 is outside", id="start outside"),
        pytest.param(lambda: Range("10.1.0.0/24", None, "10.0.9.1"), "rangeEnd 10.0.9.1 is outside", id="end outside"),
        pytest.param(lambda: Range("10.1.0.0/24", "10.1.0.0"), "outside", id="start is the network address"),
        pytest.param(lambda: Range("10.1.0.0/24", None, "10.1.0.255"), "outside", id="end is the broadcast address"),
        pytest.param(
            lambda: Range("10.1.0.0/24", gateway="10.2.0.1"), "gateway 10.2.0.1 is outside", id="gateway outside"
        ),
        pytest.param(lambda: Range("10.1.0.0/24", gateway="x"), "no IPv4 address", id="gateway is no address"),
        pytest.param(lambda: Range("10.1.0.1/24"), "host bits", id="host bits"),
        pytest.param(lambda: Range(None), "no subnet", id="missing subnet"),
    ],
)
def test_a_range_that_is_wrong_says_why(make: Callable[[], Range], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(Range("10.1.0.0/24"), Range("10.1.0.0/24"), True, id="same"),
        pytest.param(Range("10.1.0.0/24"), Range("10.1.0.128/25"), True, id="nested"),
        pytest.param(Range("10.1.0.0/24"), Range("10.1.1.0/24"), False, id="neighbours"),
        pytest.param(
            Range("10.1.0.0/24", None, "10.1.0.9"), Range("10.1.0.0/24", "10.1.0.10"), False, id="parts of one subnet"
        ),
        pytest.param(
            Range("10.1.0.0/24", None, "10.1.0.10"), Range("10.1.0.0/24", "10.1.0.10"), True, id="one address shared"
        ),
    ],
)
def test_ranges_overlap_when_they_share_an_address(one: Range, other: Range, expected: bool) -> None:
    assert one.overlaps(other) is expected
    assert other.overlaps(one) is expected


@st.composite
def range_sets(draw: st.DrawFn) -> RangeSet:
    """One to three disjoint ranges in any order of 10.0.0.0/16, exclusions inside and outside of them."""
    third = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))
    ranges = []
    for octet in third:
        prefix = draw(st.integers(26, 32))
        usable = Range(f"10.0.{octet}.0/{prefix}")
        start, end = sorted(draw(st.tuples(*[st.integers(usable.first, usable.last)] * 2)))
        gateway = draw(st.none() | st.integers(usable.first, usable.last).map(dotted))
        ranges.append(Range(f"10.0.{octet}.0/{prefix}", dotted(start), dotted(end), gateway))
    base = int(IPv4Address("10.0.0.0"))
    spans = st.tuples(st.integers(0, 1600), st.integers(0, 40)).map(lambda s: (base + s[0], base + s[0] + s[1]))
    return RangeSet(ranges, draw(st.lists(spans, max_size=6)))


def by_definition(range_set: RangeSet) -> set[int]:
    """The addresses of a set, one by one."""
    held = {number for each in range_set.ranges for number in range(each.first, each.last + 1)}
    held -= {each.gateway for each in range_set.ranges}
    return {number for number in held if not any(low <= number <= high for low, high in range_set.excluded)}


@given(range_sets(), st.none() | st.integers(0, 1600))
def test_each_address_is_a_candidate_once_and_none_that_is_excluded(range_set: RangeSet, offset: int | None) -> None:
    cursor = None if offset is None else (int(IPv4Address("10.0.0.0")) + offset).to_bytes(4, "big")
    found = [int.from_bytes(address, "big") for address in range_set.candidates(cursor)]
    assert len(found) == len(set(found)) == range_set.size()
    assert set(found) == by_definition(range_set)
    assert all(range_set.allows(number.to_bytes(4, "big")) for number in found)


@given(range_sets(), st.data())
def test_candidates_begin_behind_the_cursor_and_wrap_round(range_set: RangeSet, data: st.DataObject) -> None:
    whole = list(range_set.candidates(None))
    assume(whole)
    position = data.draw(st.integers(0, len(whole) - 1))
    assert list(range_set.candidates(whole[position])) == whole[position + 1 :] + whole[: position + 1]


@given(range_sets(), st.integers(0, 1600))
def test_a_set_allows_exactly_its_candidates(range_set: RangeSet, offset: int) -> None:
    number = int(IPv4Address("10.0.0.0")) + offset
    assert range_set.allows(number.to_bytes(4, "big")) == (number in by_definition(range_set))


def test_a_cursor_outside_the_set_begins_at_the_front() -> None:
    range_set = RangeSet([Range("10.1.0.0/30")], [])
    assert list(range_set.candidates(b"\x0a\x09\0\1")) == [b"\x0a\1\0\1", b"\x0a\1\0\2"]


def test_an_excluded_half_of_a_huge_range_is_leapt_over() -> None:
    span = ipam.parse_exclusion("10.0.0.0/9")
    # One step each; counting through it would take seconds.
    range_set = RangeSet([Range("10.0.0.0/8")], [span] * 3)
    assert next(range_set.candidates(None)) == bytes((10, 128, 0, 0))
    assert range_set.size() == 2**23 - 1


def test_a_set_may_be_wholly_excluded() -> None:
    range_set = RangeSet([Range("10.1.0.0/24")], [ipam.parse_exclusion("10.0.0.0/8")])
    assert list(range_set.candidates(None)) == []
    assert range_set.size() == 0


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("10.1.0.5", "10.1.0.5", "10.1.0.5"), ("10.1.0.0/30", "10.1.0.0", "10.1.0.3"), ("10.1.0.5/32", *["10.1.0.5"] * 2)],
)
def test_an_exclusion_is_an_address_or_a_whole_subnet(text: str, first: str, last: str) -> None:
    low, high = ipam.parse_exclusion(text)
    assert (dotted(low), dotted(high)) == (first, last)


NETWORKS = st.lists(
    st.tuples(st.integers(0, 2047), st.integers(22, 32)).map(
        lambda drawn: IPv4Network((int(IPv4Address("10.0.0.0")) + drawn[0], drawn[1]), strict=False)
    ),
    max_size=8,
)


@given(NETWORKS)
def test_merged_subnets_are_sorted_and_apart_and_have_the_same_union(networks: list[IPv4Network]) -> None:
    spans = []
    for text in ipam.merge_subnets([str(network) for network in networks]):
        low, _, high = text.partition("-")
        spans.append((int(IPv4Address(low)), int(IPv4Address(high or low))))
    assert all(low <= high for low, high in spans)
    # Apart by at least one address: nft merges what touches, and then cannot find what it was given.
    assert all(one[1] + 1 < other[0] for one, other in pairwise(spans))
    union = {number for low, high in spans for number in range(low, high + 1)}
    assert union == {int(address) for network in networks for address in network}


def test_everything_merges_to_one_interval() -> None:
    assert ipam.merge_subnets(["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3"]) == ["0.0.0.0-255.255.255.255"]
    assert ipam.merge_subnets(["10.1.2.3"]) == ["10.1.2.3"]
    assert ipam.merge_subnets([]) == []
