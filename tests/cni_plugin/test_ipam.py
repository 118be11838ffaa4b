"""Text of addresses and subnets, and single ranges: as the standard library has them, for both families."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import ipam
from cni_plugin.ipam import Range
from tests.cni_plugin.samples import ADDRESSES

Network = IPv4Network | IPv6Network


@st.composite
def networks(draw: st.DrawFn, shortest: int = 0) -> Network:
    """A subnet of either family."""
    address = draw(ADDRESSES)
    prefix = draw(st.integers(shortest, address.max_prefixlen))
    return ip_network((address, prefix), strict=False)


def plain(one: Network) -> bool:
    """Not among ::ffff:0:0/96, whose addresses are IPv4 in other clothes."""
    return one.version == 4 or one.network_address.ipv4_mapped is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(None, "None is no IP address in text form", id="None"),
        pytest.param(5, "no IP address in text form", id="number"),
        pytest.param(b"10.1.0.5", "no IP address in text form", id="bytes"),
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
        pytest.param("fd00:", "no IPv6 address", id="one colon"),
        pytest.param("fd00::1::2", "no IPv6 address", id="two gaps"),
        pytest.param("fd00::g", "no IPv6 address", id="no hexadecimal digit"),
        pytest.param("fd00::12345", "no IPv6 address", id="five digits"),
        pytest.param("fe80::1%eth0", "no IPv6 address", id="zone"),
        pytest.param("[fd00::1]", "no IPv6 address", id="brackets"),
        pytest.param("fd00::1\0", "no IPv6 address", id="NUL"),
        pytest.param("::ffff:10.1.0.5", r"IPv4 in IPv6 clothes; write 10\.1\.0\.5", id="IPv4-mapped"),
    ],
)
def test_an_address_that_is_none_says_why(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ipam.parse_address(text)


@given(ADDRESSES)
def test_an_address_survives_text_form(address: object) -> None:
    packed = ip_address(str(address)).packed
    assert ipam.parse_address(str(address)) == packed
    assert ip_address(ipam.format_address(packed)) == address
    assert ipam.parse_address(ipam.format_address(packed)) == packed


@given(ADDRESSES.filter(lambda each: each.version == 6))
def test_every_way_to_write_an_ipv6_address_is_read(address: object) -> None:
    text = ip_address(str(address)).exploded
    assert ipam.parse_address(text) == ipam.parse_address(text.upper()) == ip_address(text).packed


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
        pytest.param("fd00::/129", "prefix length of 0-128", id="129"),
        pytest.param("fd00:/64", "no IPv6 address", id="torn IPv6"),
        pytest.param("10.1.0.0/" + "9" * 5000, ".", id="an endless prefix"),
    ],
)
def test_a_network_that_is_none_says_why(text: object, reason: str) -> None:
    for parse in (ipam.parse_network, ipam.parse_subnet):
        with pytest.raises(ValueError, match=reason):
            parse(text)


@given(networks().filter(plain))
def test_subnets_are_parsed_as_the_standard_library_does(one: Network) -> None:
    assert ipam.parse_subnet(str(one)) == (one.network_address.packed, one.prefixlen)


@given(ADDRESSES, st.data())
def test_host_bits_are_kept_cleared_or_refused_as_asked(address: object, data: st.DataObject) -> None:
    one = ip_address(str(address))
    prefix = data.draw(st.integers(0, one.max_prefixlen))
    subnet = ip_network((one, prefix), strict=False)
    assert ipam.parse_network(f"{one}/{prefix}") == (one.packed, prefix)
    assert ipam.mask(one.packed, prefix) == subnet.network_address.packed
    if subnet.network_address != one:
        with pytest.raises(ValueError, match=rf"host bits set; the subnet is \S+/{prefix}"):
            ipam.parse_subnet(f"{one}/{prefix}")


@pytest.mark.parametrize(
    ("subnet", "first", "last"),
    [
        ("10.1.0.0/24", "10.1.0.1", "10.1.0.254"),
        ("10.1.0.0/30", "10.1.0.1", "10.1.0.2"),
        ("10.1.0.0/31", "10.1.0.0", "10.1.0.1"),
        ("10.1.0.7/32", "10.1.0.7", "10.1.0.7"),
        ("10.0.0.0/8", "10.0.0.1", "10.255.255.254"),
        # IPv6 has no broadcast address; the first one is the routers' anycast address.
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
        ("fd00::4/126", "fd00::5", "fd00::7"),
        ("fd00::4/127", "fd00::4", "fd00::5"),
        ("fd00::4/128", "fd00::4", "fd00::4"),
    ],
)
def test_network_and_broadcast_address_stay_out_where_there_are_such(subnet: str, first: str, last: str) -> None:
    one = Range(subnet)
    assert (one.text(one.first), one.text(one.last), one.gateway) == (first, last, b"")


@given(networks(1).filter(plain), st.data())
def test_a_range_is_what_the_standard_library_calls_the_hosts(one: Network, data: st.DataObject) -> None:
    whole = Range(str(one))
    low, high = int(one.network_address), int(one.broadcast_address)
    if one.num_addresses > 2:
        low, high = low + 1, high - (one.version == 4)
    assert (whole.first, whole.last, whole.width) == (low, high, one.max_prefixlen // 8)
    start, end = sorted(data.draw(st.tuples(*[st.integers(low, high)] * 2)))
    gateway = data.draw(st.none() | st.integers(low, high))
    texts = [None if each is None else whole.text(each) for each in (start, end, gateway)]
    part = Range(str(one), *texts)
    assert (part.first, part.last) == (start, end)
    assert part.gateway == (b"" if gateway is None else ipam.parse_address(texts[2]))


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
        pytest.param(lambda: Range("fd00::/64", "fd00::"), "outside", id="start is the routers' address"),
        pytest.param(lambda: Range("fd00::/64", "10.1.0.1"), "rangeStart 10.1.0.1 is outside", id="start of IPv4"),
        pytest.param(lambda: Range("0.0.0.0/1", "::1"), "rangeStart ::1 is outside", id="start of IPv6"),
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
        pytest.param(Range("fd00::/64"), Range("fd00::/80"), True, id="nested IPv6"),
        pytest.param(Range("fd00::/64"), Range("fd00:0:0:1::/64"), False, id="neighbours of IPv6"),
        pytest.param(Range("0.0.0.0/0"), Range("::/0"), False, id="the same numbers of two families"),
    ],
)
def test_ranges_overlap_when_they_share_an_address(one: Range, other: Range, expected: bool) -> None:
    assert one.overlaps(other) is expected
    assert other.overlaps(one) is expected


@given(networks(1).filter(plain))
def test_an_exclusion_is_a_whole_subnet_or_one_address(one: Network) -> None:
    width = one.max_prefixlen // 8
    low, high = int(one.network_address), int(one.broadcast_address)
    assert ipam.parse_exclusion(str(one)) == (width, low, high)
    assert ipam.parse_exclusion(str(one.network_address)) == (width, low, low)


@given(networks(1).filter(plain))
def test_the_neighbours_of_a_subnet_are_the_addresses_beside_it(one: Network) -> None:
    low, high = int(one.network_address) - 1, int(one.broadcast_address) + 1
    most = (1 << one.max_prefixlen) - 1
    expected = [number.to_bytes(one.max_prefixlen // 8, "big") for number in (low, high) if 0 <= number <= most]
    assert ipam.neighbours(str(one)) == expected


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [("0.0.0.0/0", []), ("::/0", []), ("0.0.0.0/8", ["1.0.0.0"]), ("ff00::/8", ["feff" + ":ffff" * 7])],
)
def test_at_the_edge_of_a_family_there_is_one_neighbour_or_none(subnet: str, expected: list[str]) -> None:
    assert [ipam.format_address(each) for each in ipam.neighbours(subnet)] == expected


def near(drawn: tuple[str, int, int]) -> Network:
    """A small subnet in the first two thousand addresses from a base."""
    base = ip_address(drawn[0])
    return ip_network((base + drawn[1], base.max_prefixlen - drawn[2]), strict=False)


# Near each other, so that they touch and nest.
NEAR = st.lists(
    st.tuples(st.sampled_from(["10.0.0.0", "fd00::"]), st.integers(0, 2047), st.integers(0, 10)).map(near), max_size=8
)


@given(NEAR)
def test_merged_subnets_are_sorted_and_apart_and_have_the_same_union(found: list[Network]) -> None:
    for width, version in ((4, 4), (16, 6)):
        spans = []
        for text in ipam.merge_subnets([str(each) for each in found], width):
            low, _, high = text.partition("-")
            spans.append((int(ip_address(low)), int(ip_address(high or low))))
            assert ip_address(low).version == version
        assert all(low <= high for low, high in spans)
        # Apart by at least one address: nft merges what touches, and then cannot find what it was given.
        assert all(one[1] + 1 < other[0] for one, other in pairwise(spans))
        union = {number for low, high in spans for number in range(low, high + 1)}
        assert union == {int(address) for each in found if each.version == version for address in each}


def test_everything_merges_to_one_interval_of_its_family() -> None:
    mixed = ["0.0.0.0/0", "10.0.0.0/8", "::/0", "10.1.2.3", "fd00::1"]
    assert ipam.merge_subnets(mixed, 4) == ["0.0.0.0-255.255.255.255"]
    assert ipam.merge_subnets(mixed, 16) == ["::-" + ":".join(["ffff"] * 8)]
    assert ipam.merge_subnets(["10.1.2.3", "fd00::1"], 4) == ["10.1.2.3"]
    assert ipam.merge_subnets(["10.1.2.3"], 16) == []
