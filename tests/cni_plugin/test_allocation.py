"""Which address an attachment gets, out of each of its range sets: in turn, cooled, free, and all or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni_plugin import ipam
from cni_plugin.attachment import HostPort
from cni_plugin.claims import Ledger
from tests.cni_plugin.conftest import Clock
from tests.cni_plugin.holdings import ANYWHERE, held, last, pool, reserve
from tests.cni_plugin.samples import fails


def test_addresses_go_round(ledger: Ledger) -> None:
    found = []
    for number in range(9):
        made = reserve(ledger, f"c{number}", cooldown=0)
        found.append(last(made))
        ledger.release(made)
    assert found == [1, 2, 3, 4, 5, 6, 1, 2, 3]


def test_a_lost_or_torn_cursor_only_begins_at_the_front(ledger: Ledger) -> None:
    for torn in (b"", b"\x0a\1", b"rubbish"):
        made = reserve(ledger, "c1", cooldown=0)
        assert last(made) == 1
        ledger.release(made)
        Path(f"{ledger.path}/cursors/{pool().name()}").write_bytes(torn)


def test_a_released_address_is_not_chosen_while_others_are_free(ledger: Ledger, clock: Clock) -> None:
    first = reserve(ledger, "first")
    ledger.release(first)
    assert os.readlink(f"{ledger.path}/cooling/10.1.0.1") == "100000000"
    assert [last(reserve(ledger, f"c{number}")) for number in range(5)] == [2, 3, 4, 5, 6]
    assert last(reserve(ledger, "c5")) == 1
    assert os.listdir(f"{ledger.path}/cooling") == []


def test_addresses_that_have_cooled_are_chosen_in_their_turn(ledger: Ledger, clock: Clock) -> None:
    made = [reserve(ledger, f"c{number}") for number in range(6)]
    for position in (1, 0):
        clock.now += 1
        ledger.release(made[position])
    clock.now += 30
    assert last(reserve(ledger, "new")) == 1


def test_a_tight_pool_gives_the_address_that_was_released_longest_ago(ledger: Ledger, clock: Clock) -> None:
    made = [reserve(ledger, f"c{number}") for number in range(6)]
    for position in (3, 1, 4):
        clock.now += 1
        ledger.release(made[position])
    assert [last(reserve(ledger, f"d{number}")) for number in range(3)] == [4, 2, 5]


def test_a_tight_pool_passes_over_a_cooling_address_that_became_foreign(ledger: Ledger, clock: Clock) -> None:
    made = [reserve(ledger, f"c{number}") for number in range(6)]
    for one in made[2:4]:
        clock.now += 1
        ledger.release(one)
    assert last(reserve(ledger, "new", is_foreign=lambda address: address == made[2].addresses[0].packed)) == 4


@pytest.mark.parametrize("mark", ["rubbish", "", "1e9"])
def test_a_garbled_cooling_mark_counts_as_none(ledger: Ledger, mark: str) -> None:
    os.symlink(mark or "-", f"{ledger.path}/cooling/10.1.0.1")
    assert last(reserve(ledger, "c1")) == 1


def test_foreign_and_excluded_addresses_are_passed_over(ledger: Ledger) -> None:
    made = reserve(ledger, "c1", pool("10.1.0.0/29", "10.1.0.1"), is_foreign=lambda address: address[3] in (2, 3))
    assert last(made) == 4


def test_exhaustion_is_code_100_with_its_counts_and_leaves_nothing(ledger: Ledger) -> None:
    range_set = pool("10.1.0.0/29", "10.1.0.6")
    kept = [reserve(ledger, f"c{number}", range_set) for number in range(3)]
    before = held(ledger)
    with fails(
        100,
        "no IP addresses available in range set: 10.1.0.1-10.1.0.6: 5 usable, 3 held, "
        "2 known to the node as somebody else's, 0 cooling",
        "`podwire-net leases` shows the holders",
    ):
        reserve(
            ledger,
            "late",
            range_set,
            ports=[HostPort("tcp", ANYWHERE, 80, 80)],
            is_foreign=lambda address: address[3] > 3,
        )
    assert held(ledger) == before
    ledger.release(kept[0])
    assert last(reserve(ledger, "late", range_set, is_foreign=lambda address: address[3] > 3)) == 1


def test_there_is_an_address_out_of_each_set_in_their_order(ledger: Ledger) -> None:
    sets = (pool("fd00::/64"), pool(), pool("10.2.0.0/29"))
    assert reserve(ledger, "c1", *sets).texts == ["fd00::1", "10.1.0.1", "10.2.0.1"]
    assert reserve(ledger, "c2", *sets).texts == ["fd00::2", "10.1.0.2", "10.2.0.2"]
    assert held(ledger)["addresses"] == ["10.1.0.1", "10.1.0.2", "10.2.0.1", "10.2.0.2", "fd00::1", "fd00::2"]
    assert sorted(os.listdir(f"{ledger.path}/cursors")) == sorted(each.name() for each in sets)


@pytest.mark.parametrize("tight", [0, 1], ids=["first set", "second set"])
def test_a_pod_gets_all_its_addresses_or_none(ledger: Ledger, tight: int) -> None:
    sets = [pool("10.1.0.0/29"), pool("fd00::/64")]
    sets[tight] = pool(["10.1.0.1/32", "fd00::1/128"][tight])
    kept = reserve(ledger, "c1", *sets)
    before = held(ledger)
    with fails(100, f"range set: {sets[tight]}: 1 usable, 1 held"):
        reserve(ledger, "c2", *sets, ports=[HostPort("tcp", ANYWHERE, 80, 80)])
    assert held(ledger) == before
    ledger.release(kept)
    assert reserve(ledger, "c2", *sets).texts[tight] == ["10.1.0.1", "fd00::1"][tight]


def test_an_ipv6_set_of_any_size_is_begun_at_its_front_and_passes_over_what_is_held(ledger: Ledger) -> None:
    huge = pool("fd00::/16", "fd00::/17")
    assert [reserve(ledger, f"c{number}", huge).texts[0] for number in range(3)] == [
        "fd00:8000::",
        "fd00:8000::1",
        "fd00:8000::2",
    ]


def test_an_address_of_another_plugins_pod_is_free_once_its_file_is_gone(ledger: Ledger, tmp_path: Path) -> None:
    lease = tmp_path / "10.1.0.1"
    lease.write_text("other\r\neth0")
    os.symlink(lease, f"{ledger.path}/foreign/10.1.0.1")
    tight = pool("10.1.0.0/31", "10.1.0.0")
    with fails(100, "1 usable, 0 held, 1 known to the node as somebody else's"):
        reserve(ledger, "c1", tight)
    lease.unlink()
    assert reserve(ledger, "c1", tight).texts == ["10.1.0.1"]


def test_a_cursor_of_the_other_family_is_none(ledger: Ledger) -> None:
    one = pool("fd00::/64")
    Path(f"{ledger.path}/cursors/{one.name()}").write_bytes(ipam.parse_address("10.1.0.5"))
    assert reserve(ledger, "c1", one).texts == ["fd00::1"]
