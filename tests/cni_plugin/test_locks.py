"""Locks of the claims: exclusive between open files, bounded in time, and gone with their holder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin import locks
from cni_plugin.claims import Ledger
from tests.cni_plugin.children import ended, fork, holder
from tests.cni_plugin.samples import COOKIE, attachment, fails


@pytest.fixture(autouse=True)
def alarm_as_found() -> Iterator[None]:
    found = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signal.signal(signal.SIGALRM, found)


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    pair = Ledger(str(tmp_path), COOKIE), Ledger(str(tmp_path), COOKIE)
    yield pair
    for each in pair:
        os.close(each.descriptor)


Pair = tuple[Ledger, Ledger]


def wait_forever() -> None:
    signal.pause()


def test_a_lock_excludes_other_open_files_until_it_is_given_back(ledgers: Pair) -> None:
    one, other = ledgers
    with one.host_lock():
        assert not other.host_lock().try_acquire()
    lock = other.host_lock()
    assert lock.try_acquire()
    assert not one.host_lock().try_acquire()
    lock.release()
    assert one.host_lock().try_acquire()


def test_a_lock_is_given_back_when_its_holder_fails(ledgers: Pair) -> None:
    one, other = ledgers
    with pytest.raises(KeyError), one.host_lock():
        raise KeyError
    assert other.host_lock().try_acquire()


def test_attachments_do_not_wait_for_the_node_nor_for_one_another(ledgers: Pair) -> None:
    one, other = ledgers
    with one.host_lock(), one.attachment_lock("c1", "eth0"):
        assert other.attachment_lock("c2", "eth0").try_acquire()
        assert not other.attachment_lock("c1", "eth0").try_acquire()


def test_waiting_ends_with_code_11_that_names_the_lock(ledgers: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ledgers
    monkeypatch.setattr(locks, "LOCK_WAIT_SECONDS", 0.05)
    with one.host_lock(), fails(11, "waited 0.05 s for the lock of the node's claims", one.lock_path, "fuser -v"):
        other.reserve(attachment("c1"), lambda: None)
    assert other.find("c1", "eth0") is None
    assert os.listdir(f"{one.path}/addresses") == []
    words = "attachment c1/eth0"
    with one.attachment_lock("c1", "eth0"), fails(11, words), other.attachment_lock("c1", "eth0"):
        pass


def test_a_waiter_gets_the_lock_when_the_holder_gives_it_back(ledgers: Pair) -> None:
    one, other = ledgers
    inode = f":{os.stat(one.lock_path).st_ino} "

    def until_somebody_waits() -> None:
        # A line of /proc/locks with an arrow is one who waits.
        while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
            os.sched_yield()

    def acquire() -> None:
        own = Ledger(one.state_dir, COOKIE)
        own.host_lock().__enter__()

    with holder(acquire, until_somebody_waits) as child:
        assert not other.host_lock().try_acquire()
        with other.host_lock():
            assert ended(child) == 0
            assert not one.host_lock().try_acquire()


def test_a_lock_dies_with_a_killed_holder(ledgers: Pair) -> None:
    one, _ = ledgers

    def acquire() -> None:
        own = Ledger(one.state_dir, COOKIE)
        own.host_lock().__enter__()
        own.attachment_lock("c1", "eth0").__enter__()

    with holder(acquire, wait_forever) as child:
        assert not one.host_lock().try_acquire()
        assert not one.attachment_lock("c1", "eth0").try_acquire()
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        assert one.host_lock().try_acquire()
        assert one.attachment_lock("c1", "eth0").try_acquire()


def test_a_child_that_closes_its_copy_leaves_its_parent_the_lock(ledgers: Pair) -> None:
    one, other = ledgers
    with one.host_lock():
        assert ended(fork(lambda: os.close(one.descriptor))) == 0
        assert not other.host_lock().try_acquire()


def test_a_child_that_keeps_its_copy_keeps_the_lock_of_a_dead_parent(ledgers: Pair) -> None:
    """Why children that wait for the kernel close the lock file first."""
    one, other = ledgers
    assert one.host_lock().try_acquire()
    with holder(lambda: None, wait_forever):
        os.close(one.descriptor)
        one.descriptor = os.dup(other.descriptor)
        assert not other.host_lock().try_acquire()
    assert other.host_lock().try_acquire()
