"""What ends an install from outside: signals, the end of its caller, a rollback by another process; and the lock."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from cni_plugin.install import locking, rollback, selftest, transaction
from cni_plugin.install.interruption import Interruption, watch_lifeline
from cni_plugin.install.journal import Journal, JournalError
from cni_plugin.install.locking import Turn
from cni_plugin.install.manifest import Manifest
from tests.cni_plugin.children import ended, fork, holder
from tests.installer.scratch import ALL, PLAIN, ScratchNode
from tests.installer.test_install import commit, install, roll_back
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.root


def but_lock(node: ScratchNode) -> dict[str, str]:
    return {name: what for name, what in node.picture().items() if not name.endswith("install.lock")}


class Running:
    """An install in a child that waits in its self-test until somebody ends it."""

    def __init__(self, node: ScratchNode, payload: Manifest, lifeline: tuple[int, int] | None = None) -> None:
        self.node = node
        self._mark = node.tools / "waiting"

        def work() -> int:
            with Interruption() as interruption:
                if lifeline is not None:
                    watch_lifeline(lifeline[0])
                pytest.MonkeyPatch().setattr(selftest, "run", self._wait)
                site = replace(node.site(), say=print)
                return transaction.install(site, payload, PLAIN, interruption, checked=False)

        def outer() -> None:
            if lifeline is not None:
                os.close(lifeline[1])
            os._exit(node.inside(work))

        # The child that `inside` makes is the one that installs, and it says its number.
        self._outer = fork(outer)
        self.pid = int(
            wait_until(lambda: self._mark.read_text() if self._mark.exists() else "", 20, "the install to begin")
        )

    def _wait(self, site: object, plugin: Path) -> str:
        draft = self._mark.with_name("draft")
        draft.write_text(str(os.getpid()))
        draft.rename(self._mark)
        while True:
            signal.pause()

    def code(self) -> int:
        """Its exit code."""
        return ended(self._outer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda each: each.name)
def test_a_signal_ends_an_install_and_undoes_it(scratch: ScratchNode, number: signal.Signals) -> None:
    payload = scratch.place()
    before = but_lock(scratch)
    running = Running(scratch, payload)
    os.kill(running.pid, number)
    assert running.code() == 1
    assert f"podwire-node: {number.name}: the install ends" in scratch.said()
    assert but_lock(scratch) == before


def test_the_end_of_the_caller_ends_an_install_and_undoes_it(scratch: ScratchNode) -> None:
    payload = scratch.place()
    before = but_lock(scratch)
    read, write = os.pipe()
    running = Running(scratch, payload, (read, write))
    os.close(read)
    os.close(write)
    assert running.code() == 1
    assert "SIGTERM: the install ends" in scratch.said()
    assert but_lock(scratch) == before


def test_a_rollback_ends_an_install_that_runs_and_waits_for_it(scratch: ScratchNode) -> None:
    before = but_lock(scratch)
    running = Running(scratch, scratch.place())
    assert roll_back(scratch) == 0, scratch.said()
    assert f"an install runs (pid {running.pid}): it is asked to end" in scratch.said()
    assert running.code() == 1
    assert but_lock(scratch) == before


def test_while_one_works_another_is_told_who_it_is(scratch: ScratchNode) -> None:
    turn = Turn(scratch.places, "uninstall", 0)
    with holder(turn.__enter__, signal.pause) as child:
        with pytest.raises(JournalError) as refused, Turn(scratch.places, "commit", 0.1):
            pass
        assert f"is being changed by `podwire-node uninstall` (pid {child})" in str(refused.value)
    assert locking.holder(scratch.places) is None, "the lock of a dead process holds nobody up"
    with Turn(scratch.places, "commit", 0):
        pass
    assert not scratch.places.lib.exists(), "a lock alone leaves nothing"


def test_an_upgrade_that_is_rolled_back_runs_the_old_version_again(scratch: ScratchNode) -> None:
    old = scratch.place("1")
    assert install(scratch, old, ALL) == 0, scratch.said()
    assert commit(scratch) == 0
    before, calls = but_lock(scratch), scratch.calls.read_text()
    assert install(scratch, scratch.place("2"), ALL) == 0, scratch.said()
    assert roll_back(scratch) == 0, scratch.said()
    socket = str(scratch.places.shim_socket)
    assert but_lock(scratch) == {name: what for name, what in before.items() if name != socket}
    made = scratch.calls.read_text().removeprefix(calls).splitlines()
    ends = [line for line in made if line.split()[0] in ("restart", "reload", "stop", "disable")]
    there, back = ends[: len(ends) // 2], ends[len(ends) // 2 :]
    assert sorted(there) == sorted(back)
    assert "reload podwire-shim.service" in back
    assert made.count("daemon-reload") >= 2
    assert Journal(scratch.places).load().transaction is None
    assert os.readlink(scratch.places.current) == f"versions/{old.identity}"


def test_rolled_back_twice_is_rolled_back_once(scratch: ScratchNode) -> None:
    assert install(scratch, scratch.place(), PLAIN) == 0
    assert roll_back(scratch) == 0
    before = scratch.picture()
    assert scratch.inside(lambda: rollback.rollback(replace(scratch.site(), say=print))) == 0
    assert "nothing to undo: podwire is not installed here" in scratch.said()
    assert scratch.picture() == before
