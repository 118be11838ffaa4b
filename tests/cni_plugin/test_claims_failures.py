"""A state folder that fails: full, read-only or taken away at any step; nothing is left, and code 104 says so."""

from __future__ import annotations

import errno
import os
import posix

import pytest

from cni_plugin.attachment import HostPort
from cni_plugin.claims import Ledger
from cni_plugin.spec import CniError
from tests.cni_plugin.holdings import ANYWHERE, NOTHING, breaking, held, last, pool, reserve
from tests.cni_plugin.samples import attachment, fails


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMLINK], ids=errno.errorcode.get)
def test_a_failure_at_any_step_of_a_reservation_leaves_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    ports = [HostPort("tcp", ANYWHERE, 80, 80), HostPort("tcp", ANYWHERE, 81, 81)]
    failures = []
    for step in range(1, 40):
        with monkeypatch.context() as broken:
            count = breaking(broken, step, code, for_good=False)
            try:
                made = reserve(ledger, f"c{step}", pool(), pool("fd00::/64"), ports=ports, cooldown=0)
            except CniError as fault:
                failures.append((fault.code, os.strerror(code) in fault.message, held(ledger)))
                continue
        ledger.release(made)
        if count() < step:
            break  # there is no step of this number
    # The draft (open, write), its rename, four links, two cooling marks; the cursors' failures are no failures.
    assert failures == [(104, True, NOTHING)] * 9


@pytest.mark.parametrize("step", range(1, 7))
def test_a_folder_that_turns_read_only_in_between_is_code_104(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as broken:
        breaking(broken, step, errno.EROFS, for_good=True)
        with fails(104, "Read-only file system"):
            reserve(ledger, "c1", ports=[HostPort("tcp", ANYWHERE, 80, 80)])
    made = attachment("c1")
    found = ledger.find("c1", "eth0")
    ledger.release(found[1] if found else made)
    assert held(ledger) == NOTHING


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_a_release_that_fails_at_any_step_can_be_repeated(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, for_good: bool
) -> None:
    sets, ports = (pool("10.1.0.1/32"), pool("fd00::1/128")), [HostPort("tcp", ANYWHERE, 80, 80)]
    failures = 0
    for step in range(1, 40):
        made = reserve(ledger, f"c{step}", *sets, ports=ports, cooldown=0, sticky=("pods/eth0/uid/u", 300))
        with monkeypatch.context() as broken:
            count = breaking(broken, step, errno.EROFS, for_good)
            try:
                ledger.release(made)
            except CniError as fault:
                failures += "Read-only file system" in fault.message
        ledger.release(made)
        assert held(ledger) == NOTHING
        if count() < step:
            break  # there is no step of this number
    # Two addresses, a port, the record in three folders, its draft, its mark; what only keeps an address fails nothing.
    assert failures >= 8


def test_a_short_write_is_a_full_disk(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    real = posix.write
    with monkeypatch.context() as broken:
        broken.setattr(posix, "write", lambda descriptor, data: real(descriptor, data[:10]))
        with fails(104, "No space left on device"):
            reserve(ledger, "c1")
    assert held(ledger) == NOTHING


def test_an_address_is_freed_even_where_its_cooling_mark_cannot_be_written(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reserve(ledger, "c1")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as broken:
        broken.setattr(posix, "symlink", full)
        ledger.release(made)
    assert held(ledger) == NOTHING
    assert last(reserve(ledger, "c2", pool("10.1.0.1/32"))) == 1


def test_moving_a_record_that_is_gone_is_code_104(ledger: Ledger) -> None:
    made = reserve(ledger, "c1")
    ledger.release(made)
    with fails(104, "No such file"):
        ledger.complete(made)
    with fails(104, "No such file"):
        ledger.begin_delete(made, "attachments")


def test_a_folder_that_was_taken_away_is_code_104(ledger: Ledger) -> None:
    for name in ("pending", "networks"):
        os.rmdir(f"{ledger.path}/{name}")
    with fails(104, "No such file"):
        reserve(ledger, "c1")
    with fails(104, "No such file"):
        list(ledger.records("pending"))
