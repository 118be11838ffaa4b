"""The state folder of a node that has none yet: whole or not at all, with what other plugins' pods hold in it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cni_plugin import claims
from cni_plugin.claims import FOLDERS, Ledger
from cni_plugin.spec import CniError
from tests.cni_plugin.children import ended, fork
from tests.cni_plugin.conftest import OtherPlugins
from tests.cni_plugin.holdings import breaking, last, pool, reserve
from tests.cni_plugin.samples import COOKIE, fails


def made(state: Path) -> Ledger:
    """A ledger whose descriptor is closed: only its folder counts here."""
    ledger = Ledger(str(state), COOKIE)
    os.close(ledger.descriptor)
    return ledger


def lease(others: OtherPlugins, address: str, container_id: str = "other") -> Path:
    """host-local's file of an address."""
    (others.networks / "mynet").mkdir(exist_ok=True)
    path = others.networks / "mynet" / address
    path.write_text(f"{container_id}\r\neth0")
    return path


def test_addresses_of_other_plugins_are_links_to_their_files(tmp_path: Path, others: OtherPlugins) -> None:
    v4, v6 = lease(others, "10.1.0.1"), lease(others, "fd00::1")
    ledger = Ledger(str(tmp_path / "state"), COOKIE)
    assert {each: os.readlink(f"{ledger.path}/foreign/{each}") for each in os.listdir(f"{ledger.path}/foreign")} == {
        "10.1.0.1": str(v4),
        "fd00::1": str(v6),
    }
    assert reserve(ledger, "c1", pool(), pool("fd00::/64")).texts == ["10.1.0.2", "fd00::2"]
    os.close(ledger.descriptor)


def test_the_one_who_finds_a_folder_looks_for_nothing_more(tmp_path: Path, others: OtherPlugins) -> None:
    made(tmp_path / "state")
    lease(others, "10.1.0.1")
    again = Ledger(str(tmp_path / "state"), COOKIE)
    assert os.listdir(f"{again.path}/foreign") == []
    assert last(reserve(again, "c1")) == 1
    os.close(again.descriptor)


@pytest.mark.parametrize(
    ("code", "for_good"), [(errno.ENOSPC, False), (errno.EROFS, True)], ids=["full once", "read-only from there on"]
)
def test_a_failure_at_any_step_leaves_no_folder_and_the_next_call_makes_it_whole(
    tmp_path: Path, others: OtherPlugins, monkeypatch: pytest.MonkeyPatch, code: int, for_good: bool
) -> None:
    lease(others, "10.1.0.1")
    failures = []
    for step in range(1, 60):
        state = tmp_path / f"state{step}/deep"
        with monkeypatch.context() as broken:
            count = breaking(broken, step, code, for_good)
            try:
                made(state)
            except CniError as fault:
                failures.append((fault.code, os.strerror(code) in fault.message, claims.exists(str(state), COOKIE)))
        ledger = made(state)
        assert sorted(os.listdir(ledger.path)) == sorted([*FOLDERS, "lock"])
        assert os.listdir(f"{ledger.path}/foreign") == ["10.1.0.1"]
        assert sorted(os.listdir(state)) == sorted(["lock", os.path.basename(ledger.path)])
        if count() < step:
            break  # there is no step of this number
    # The lock's file, the draft and its folders, a foreign address, its lock's file, the rename; and the parents.
    assert failures == [(104, True, False)] * len(failures)
    assert len(failures) >= 1 + 1 + len(FOLDERS) + 1 + 1 + 1


def test_a_draft_that_a_killed_call_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".draft/addresses").mkdir(parents=True)
    (tmp_path / ".draft/addresses/10.1.0.1").write_text("rubbish")
    ledger = Ledger(str(tmp_path), COOKIE)
    assert sorted(os.listdir(tmp_path)) == sorted(["lock", os.path.basename(ledger.path)])
    assert last(reserve(ledger, "c1")) == 1
    os.close(ledger.descriptor)


def test_a_folder_whose_lock_is_gone_keeps_its_claims(tmp_path: Path) -> None:
    first = Ledger(str(tmp_path), COOKIE)
    kept = reserve(first, "c1")
    os.close(first.descriptor)
    os.unlink(first.lock_path)
    os.rmdir(f"{first.path}/absent")
    again = Ledger(str(tmp_path), COOKIE)
    assert again.missing_claims(kept) == []
    assert last(reserve(again, "c2")) == 2
    assert os.listdir(f"{again.path}/absent") == []
    os.close(again.descriptor)


def test_of_many_first_calls_one_makes_the_folder(tmp_path: Path, others: OtherPlugins) -> None:
    lease(others, "10.1.0.1")
    ready, go = os.pipe()

    def work(number: int) -> None:
        os.close(go)
        os.read(ready, 1)
        own = Ledger(str(tmp_path / "state"), COOKIE)
        reserve(own, f"c{number}", pool("10.1.0.0/26"))

    children = [fork(lambda number=number: work(number)) for number in range(8)]  # type: ignore[misc]
    os.close(go)
    assert [ended(child) for child in children] == [0] * 8
    os.close(ready)
    ledger = made(tmp_path / "state")
    assert sorted(os.listdir(f"{ledger.path}/addresses")) == sorted(f"10.1.0.{number}" for number in range(2, 10))
    assert sorted(os.listdir(tmp_path / "state")) == sorted(["lock", os.path.basename(ledger.path)])


def test_a_link_in_place_of_the_lock_is_code_104(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/etc/passwd")
    with fails(104, "state folder", "key stateDir"):
        made(tmp_path)


def test_the_records_of_this_boot_in_another_namespace_stay(tmp_path: Path) -> None:
    first = Ledger(str(tmp_path), COOKIE)
    kept = reserve(first, "c1")
    other = Ledger(str(tmp_path), COOKIE + 1)
    assert json.loads(Path(f"{first.path}/pending/{kept.lease}").read_text())["containerID"] == "c1"
    assert last(reserve(other, "c2")) == 1
    for each in (first, other):
        os.close(each.descriptor)
