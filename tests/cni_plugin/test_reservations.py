"""Addresses that are not for anybody: requested by a call, or kept for a pod that comes back; the sweep of marks."""

from __future__ import annotations

import os
import posix
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugin import ipam, sweep
from cni_plugin.claims import Ledger, sticky_name
from cni_plugin.config import COOLDOWN_LIMIT
from tests.cni_plugin.conftest import Clock
from tests.cni_plugin.holdings import held, last, nobody, pool, reserve
from tests.cni_plugin.samples import fails

STICKY = ("pods/eth0/uid/u-1", 300)
BOTH = (pool(), pool("fd00::/64"))


def test_a_requested_address_is_given_and_the_others_come_in_turn(ledger: Ledger) -> None:
    assert reserve(ledger, "c1", *BOTH, requested=("fd00::99",)).texts == ["10.1.0.1", "fd00::99"]
    assert reserve(ledger, "c2", *BOTH, requested=("fd00::98", "10.1.0.5")).texts == ["10.1.0.5", "fd00::98"]
    # A request moves no cursor.
    assert reserve(ledger, "c3", *BOTH).texts == ["10.1.0.2", "fd00::1"]


def test_two_addresses_of_a_family_come_out_of_two_sets(ledger: Ledger) -> None:
    sets = (pool("10.1.0.0/29"), pool("10.2.0.0/29"))
    assert reserve(ledger, "c1", *sets, requested=("10.2.0.5", "10.1.0.5")).texts == ["10.1.0.5", "10.2.0.5"]


def test_a_requested_address_may_still_be_cooling_or_kept_for_another(ledger: Ledger, clock: Clock) -> None:
    ledger.release(reserve(ledger, "c1", sticky=STICKY))
    assert reserve(ledger, "c2", requested=("10.1.0.1",)).texts == ["10.1.0.1"]


def hold(ledger: Ledger) -> None:
    reserve(ledger, "holder", requested=("10.1.0.3",))


def garble(ledger: Ledger) -> None:
    Path(f"{ledger.path}/addresses/10.1.0.3").write_text("rubbish")


def import_it(ledger: Ledger) -> None:
    os.symlink(__file__, f"{ledger.path}/foreign/10.1.0.3")


@pytest.mark.parametrize(
    ("before", "is_foreign", "words"),
    [
        pytest.param(hold, nobody, "held by shop/cart", id="by a pod"),
        pytest.param(garble, nobody, "held by an attachment without a readable record", id="by a broken record"),
        pytest.param(import_it, nobody, f"another plugin's ({__file__})", id="by another plugin"),
        pytest.param(
            lambda ledger: None,
            lambda address: address[-1] == 3,
            "known to the node as somebody else's",
            id="by the node",
        ),
    ],
)
def test_a_requested_address_that_is_taken_is_code_101(
    ledger: Ledger, before: Callable[[Ledger], None], is_foreign: Callable[[bytes], bool], words: str
) -> None:
    before(ledger)
    found = held(ledger)
    with fails(101, f"requested address 10.1.0.3 is {words}", "request another address"):
        reserve(ledger, "c1", *BOTH, requested=("fd00::5", "10.1.0.3"), is_foreign=is_foreign)
    assert held(ledger) == found


RESTRICTED = (ipam.RangeSet([ipam.Range("10.1.0.0/29", None, None, "10.1.0.1")], [ipam.parse_exclusion("10.1.0.4")]),)


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        (("10.9.0.1",), "10.9.0.1 is outside the ranges 10.1.0.1-10.1.0.6"),
        (("fd00::1",), "fd00::1 is outside the ranges"),
        (("10.1.0.0",), "10.1.0.0 is outside the ranges"),
        (("10.1.0.1",), "10.1.0.1 is a gateway, or excluded"),
        (("10.1.0.4",), "10.1.0.4 is a gateway, or excluded"),
        (("10.1.0.2", "10.1.0.3"), "10.1.0.3 is the second one out of the same range set"),
    ],
    ids=str,
)
def test_a_requested_address_that_is_not_to_be_had_is_code_102(
    ledger: Ledger, requested: tuple[str, ...], words: str
) -> None:
    found = held(ledger)
    with fails(102, f"requested address {words}"):
        reserve(ledger, "c1", *RESTRICTED, requested=requested)
    assert held(ledger) == found


def test_a_pod_that_comes_back_gets_its_addresses_of_both_families(ledger: Ledger, clock: Clock) -> None:
    first = reserve(ledger, "c1", *BOTH, sticky=STICKY)
    ledger.release(first)
    name = sticky_name(STICKY[0])
    assert os.readlink(f"{ledger.path}/sticky/{name}") == "10.1.0.1,fd00::1"
    assert os.readlink(f"{ledger.path}/cooling/fd00::1") == f"100000000 300 {name}"
    # Longer than any cooldown here, shorter than the 300 seconds.
    clock.now += 299
    assert [last(reserve(ledger, f"x{number}", *BOTH)) for number in range(5)] == [2, 3, 4, 5, 6]
    assert reserve(ledger, "c2", *BOTH, sticky=STICKY).texts == first.texts
    assert os.listdir(f"{ledger.path}/cooling") == []


def test_what_is_kept_is_passed_over_round_after_round(ledger: Ledger, clock: Clock) -> None:
    ledger.release(reserve(ledger, "c1", sticky=STICKY))
    clock.now += 100
    found = []
    for number in range(7):
        one = reserve(ledger, f"x{number}", cooldown=0)
        ledger.release(one)
        found.append(last(one))
    assert found == [2, 3, 4, 5, 6, 2, 3]


def test_what_is_kept_is_kept_again_with_every_release(ledger: Ledger, clock: Clock) -> None:
    for number in range(4):
        one = reserve(ledger, f"c{number}", sticky=STICKY)
        assert last(one) == 1
        clock.now += 1000
        ledger.release(one)
        clock.now += 200


def test_after_its_time_an_address_is_nobodys(ledger: Ledger, clock: Clock) -> None:
    ledger.release(reserve(ledger, "c1", sticky=STICKY))
    clock.now += 300
    assert last(reserve(ledger, "c2", sticky=STICKY)) == 2


@pytest.mark.parametrize(
    "other",
    [("pods/eth0/uid/u-2", 300), ("pods/eth0/name/u-1", 300), ("pods/net1/uid/u-1", 300), None],
    ids=["another pod", "another kind", "another interface", "none"],
)
def test_another_pod_does_not_get_what_is_kept(ledger: Ledger, clock: Clock, other: tuple[str, int] | None) -> None:
    ledger.release(reserve(ledger, "c1", sticky=STICKY))
    clock.now += 100
    assert last(reserve(ledger, "c2", sticky=other)) == 2


def test_what_is_kept_is_lent_on_last_of_all_and_then_no_longer_its_pods(ledger: Ledger, clock: Clock) -> None:
    made = [reserve(ledger, f"c{number}", sticky=STICKY if number == 0 else None) for number in range(6)]
    ledger.release(made[0])
    clock.now += 10
    ledger.release(made[3])
    # Both cool; the one that is kept has cooled longer, and is taken later all the same.
    assert last(reserve(ledger, "new")) == 4
    assert last(reserve(ledger, "last", sticky=("pods/eth0/uid/u-2", 300))) == 1
    with fails(100, "6 held"):
        reserve(ledger, "late", sticky=STICKY)
    found = ledger.find("last", "eth0")
    assert found is not None
    ledger.release(found[1])
    ledger.release(made[1])
    clock.now += 100
    # The reservation still names 10.1.0.1, which is kept for its borrower now: 10.1.0.2 is next in turn.
    assert os.readlink(f"{ledger.path}/sticky/{sticky_name(STICKY[0])}") == "10.1.0.1"
    assert last(reserve(ledger, "back", sticky=STICKY)) == 2


def test_the_borrower_of_an_address_keeps_it(ledger: Ledger, clock: Clock) -> None:
    tight = pool("10.1.0.0/31")
    ledger.release(reserve(ledger, "c1", tight, sticky=STICKY))
    lent = [reserve(ledger, name, tight) for name in ("a", "b")]
    assert sorted(map(last, lent)) == [0, 1]
    ledger.release(lent[0])
    back = reserve(ledger, "c2", tight, sticky=STICKY)
    assert back.texts == lent[0].texts


def test_while_the_old_sandbox_lives_the_new_one_gets_another_address(ledger: Ledger, clock: Clock) -> None:
    old = reserve(ledger, "c1", sticky=STICKY)
    ledger.release(old)
    old = reserve(ledger, "c2", sticky=STICKY)
    new = reserve(ledger, "c3", sticky=STICKY)
    assert (last(old), last(new)) == (1, 2)


def test_a_request_counts_more_than_what_is_kept(ledger: Ledger, clock: Clock) -> None:
    ledger.release(reserve(ledger, "c1", *BOTH, sticky=STICKY))
    assert reserve(ledger, "c2", *BOTH, sticky=STICKY, requested=("10.1.0.5",)).texts == ["10.1.0.5", "fd00::1"]


def test_what_the_configuration_no_longer_gives_is_not_kept(ledger: Ledger, clock: Clock) -> None:
    ledger.release(reserve(ledger, "c1", *BOTH, sticky=STICKY))
    excluding = (pool("10.1.0.0/29", "10.1.0.1"), pool("fd07::/64"))
    assert reserve(ledger, "c2", *excluding, sticky=STICKY).texts == ["10.1.0.2", "fd07::1"]


def test_what_the_node_knows_as_somebody_elses_meanwhile_is_not_kept(ledger: Ledger, clock: Clock) -> None:
    ledger.release(reserve(ledger, "c1", sticky=STICKY))
    assert last(reserve(ledger, "c2", sticky=STICKY, is_foreign=lambda address: address[-1] == 1)) == 2


@pytest.mark.parametrize("target", ["rubbish", "10.1.0.9,,", "/etc/passwd", "10.1.0.300"])
def test_a_garbled_reservation_is_none(ledger: Ledger, target: str) -> None:
    os.symlink(target, f"{ledger.path}/sticky/{sticky_name(STICKY[0])}")
    assert last(reserve(ledger, "c1", sticky=STICKY)) == 1


@pytest.mark.parametrize("mark", ["100000000 300", "100000000 soon x", "- 300 x", "100000000 300 x y"])
def test_a_garbled_mark_keeps_nothing(ledger: Ledger, clock: Clock, mark: str) -> None:
    ledger.release(reserve(ledger, "c1", sticky=STICKY))
    os.unlink(f"{ledger.path}/cooling/10.1.0.1")
    os.symlink(mark, f"{ledger.path}/cooling/10.1.0.1")
    clock.now += 100
    assert last(reserve(ledger, "c2", sticky=STICKY)) == 2


def marks(ledger: Ledger) -> set[str]:
    return {name for folder in ("cooling", "sticky") for name in os.listdir(f"{ledger.path}/{folder}")}


def test_the_sweep_takes_marks_that_no_configuration_could_ask_for(ledger: Ledger, clock: Clock) -> None:
    long = ("pods/eth0/uid/u-2", 2 * COOLDOWN_LIMIT)
    made = [reserve(ledger, f"c{number}", sticky=key) for number, key in enumerate([None, STICKY, long])]
    for one in made:
        ledger.release(one)
    short_name, long_name = sticky_name(STICKY[0]), sticky_name(long[0])
    os.symlink("rubbish", f"{ledger.path}/cooling/10.1.0.6")
    assert sweep.sweep(ledger) == 1
    assert marks(ledger) == {"10.1.0.1", "10.1.0.2", "10.1.0.3", short_name, long_name}
    clock.now += 300
    assert sweep.sweep(ledger) == 1
    assert marks(ledger) == {"10.1.0.1", "10.1.0.2", "10.1.0.3", long_name}
    clock.now += COOLDOWN_LIMIT - 300
    assert sweep.sweep(ledger) == 2
    assert marks(ledger) == {"10.1.0.3", long_name}
    clock.now += COOLDOWN_LIMIT
    assert sweep.sweep(ledger) == 2
    assert marks(ledger) == set()


def test_the_sweep_leaves_the_reservation_of_a_kept_address(ledger: Ledger, clock: Clock) -> None:
    ledger.release(reserve(ledger, "c1", *BOTH, sticky=STICKY))
    clock.now += 200
    assert sweep.sweep(ledger) == 0
    assert reserve(ledger, "c2", *BOTH, sticky=STICKY).texts == ["10.1.0.1", "fd00::1"]


def test_a_folder_that_cannot_be_swept_fails_no_call(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink("rubbish", f"{ledger.path}/cooling/10.1.0.6")

    def refuse(path: str) -> None:
        raise OSError(30, "Read-only file system", path)

    with monkeypatch.context() as broken:
        broken.setattr(posix, "unlink", refuse)
        assert sweep.sweep(ledger) == 0
    assert sweep.sweep(ledger) == 1
