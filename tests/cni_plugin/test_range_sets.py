"""Which addresses a range set hands out, and in which order: every statement for both families."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cni_plugin import ipam
from cni_plugin.ipam import Range, RangeSet

# Width to (first address of the room that ranges are made in, bits of an address, subnet by number in it).
ROOMS = {4: (int(ip_address("10.0.0.0")), 32, "10.0.{}.0"), 16: (int(ip_address("fd00::")), 128, "fd00::{}00")}
SIZE = 1600


def packed(number: int, width: int) -> bytes:
    return number.to_bytes(width, "big")


class Drawn(NamedTuple):
    """A set, and the spans of its own family that it was told to exclude."""

    made: RangeSet
    spans: list[tuple[int, int]]

    def addresses(self) -> set[bytes]:
        """What the set may hand out, one by one."""
        held = {number for each in self.made.ranges for number in range(each.first, each.last + 1)}
        held -= {int.from_bytes(each.gateway, "big") for each in self.made.ranges if each.gateway}
        free = {number for number in held if not any(low <= number <= high for low, high in self.spans)}
        return {packed(number, self.made.width) for number in free}


@st.composite
def range_sets(draw: st.DrawFn) -> Drawn:
    """One to three disjoint ranges of one family in any order, exclusions of both inside and outside of them."""
    width = draw(st.sampled_from(sorted(ROOMS)))
    _, bits, subnet = ROOMS[width]
    ranges = []
    for number in draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)):
        text = f"{subnet.format(number)}/{draw(st.integers(bits - 6, bits))}"
        usable = Range(text)
        start, end = sorted(draw(st.tuples(*[st.integers(usable.first, usable.last)] * 2)))
        gateway = draw(st.none() | st.integers(usable.first, usable.last).map(usable.text))
        ranges.append(Range(text, usable.text(start), usable.text(end), gateway))
    spans = st.tuples(st.sampled_from(sorted(ROOMS)), st.integers(0, SIZE), st.integers(0, 40)).map(
        lambda drawn: (drawn[0], ROOMS[drawn[0]][0] + drawn[1], ROOMS[drawn[0]][0] + drawn[1] + drawn[2])
    )
    excluded = draw(st.lists(spans, max_size=6))
    return Drawn(RangeSet(ranges, excluded), [(low, high) for each, low, high in excluded if each == width])


@given(range_sets(), st.none() | st.integers(0, SIZE))
def test_each_address_is_a_candidate_once_and_none_that_is_excluded(drawn: Drawn, offset: int | None) -> None:
    one = drawn.made
    cursor = None if offset is None else packed(ROOMS[one.width][0] + offset, one.width)
    found = list(one.candidates(cursor))
    assert len(found) == len(set(found)) == one.size()
    assert set(found) == drawn.addresses()
    assert all(one.allows(address) for address in found)


@given(range_sets(), st.data())
def test_candidates_begin_behind_the_cursor_and_wrap_round(drawn: Drawn, data: st.DataObject) -> None:
    one = drawn.made
    whole = list(one.candidates(None))
    assume(whole)
    position = data.draw(st.integers(0, len(whole) - 1))
    assert list(one.candidates(whole[position])) == whole[position + 1 :] + whole[: position + 1]


@given(range_sets(), st.integers(0, SIZE))
def test_a_set_allows_exactly_its_candidates(drawn: Drawn, offset: int) -> None:
    one = drawn.made
    for width, (base, _, _) in ROOMS.items():
        address = packed(base + offset, width)
        assert one.allows(address) == (address in drawn.addresses())


@given(range_sets(), st.integers(0, SIZE))
def test_an_address_belongs_to_the_range_that_holds_it_excluded_or_not(drawn: Drawn, offset: int) -> None:
    one = drawn.made
    for width, (base, _, _) in ROOMS.items():
        address = packed(base + offset, width)
        holders = [each for each in one.ranges if each.width == width and each.first <= base + offset <= each.last]
        assert one.range_of(address) is (holders[0] if holders else None)
        assert one.gateway_of(address) == (holders[0].gateway if holders else b"")


def made(*subnets: str, excluded: tuple[str, ...] = ()) -> RangeSet:
    return RangeSet([Range(text) for text in subnets], [ipam.parse_exclusion(text) for text in excluded])


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (RangeSet([Range("10.1.0.0/24", "10.1.0.10", "10.1.0.20", "10.1.0.1")], []), "10.1.0.10-10.1.0.20"),
        (RangeSet([Range("fd00::/64", None, "fd00::f")], []), "fd00::1-fd00::f"),
    ],
)
def test_a_set_is_named_by_its_ends(one: RangeSet, text: str) -> None:
    assert (str(one), one.name()) == (text, text)


def test_sets_of_several_ranges_have_one_file_name() -> None:
    one = made("10.1.0.0/30", "10.9.0.0/30")
    assert str(one) == "10.1.0.1-10.1.0.2, 10.9.0.1-10.9.0.2"
    assert one.name() == "10.1.0.1-10.9.0.2"


@pytest.mark.parametrize("cursor", ["10.9.0.1", "10.0.255.255", "10.1.0.3"], ids=str)
def test_a_cursor_outside_the_set_begins_at_the_front(cursor: str) -> None:
    found = made("10.1.0.0/30").candidates(ipam.parse_address(cursor))
    assert [ipam.format_address(each) for each in found] == ["10.1.0.1", "10.1.0.2"]


@pytest.mark.parametrize(
    ("subnet", "excluded", "first", "size"),
    [
        ("10.0.0.0/8", "10.0.0.0/9", "10.128.0.0", 2**23 - 1),
        ("fd00::/64", "fd00::/65", "fd00::8000:0:0:0", 2**63),
        ("::/0", "::/1", "8000::", 2**127),
    ],
)
def test_an_excluded_half_of_a_huge_range_is_leapt_over(subnet: str, excluded: str, first: str, size: int) -> None:
    # One step each; counting through it would take seconds, or for ever.
    one = made(subnet, excluded=(excluded,) * 3)
    assert ipam.format_address(next(one.candidates(None))) == first
    assert one.size() == size


@pytest.mark.parametrize(("subnet", "excluded"), [("10.1.0.0/24", "10.0.0.0/8"), ("fd00::/120", "fd00::/64")])
def test_a_set_may_be_wholly_excluded(subnet: str, excluded: str) -> None:
    one = made(subnet, excluded=(excluded,))
    assert list(one.candidates(None)) == []
    assert one.size() == 0


def test_what_is_excluded_of_the_other_family_is_passed_over() -> None:
    # ::a01:1 is the number of 10.1.0.1.
    assert made("10.1.0.0/30", excluded=("::a01:0/126", "::/0")).size() == 2
