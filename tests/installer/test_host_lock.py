"""Two runs of host.sh on one cluster, also where one of them is gone."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.installer.hostlab import HostLab
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.root

HANG = 'trap "" TERM INT; touch "$NODE/reached"; cat >/dev/null; exit 1'


@contextmanager
def running(lab: HostLab) -> Iterator["subprocess.Popen[str]"]:
    """An installation that goes on until the block ends."""
    node = lab.cluster("kind-control-plane")[0]
    node.behave("install", HANG)
    with lab.start("kind", "--payload", lab.payload.name) as process:
        wait_until((node.folder / "reached").exists, 20, "the node's installation")
        (node.folder / "behave" / "install").unlink()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def lock(lab: HostLab) -> Path:
    return lab.folder / "tmp" / "podwire-install-kind-kind.lock"


@pytest.mark.parametrize("word", ["--payload", "--uninstall", "--rollback"])
def test_whatever_the_second_wants_it_is_refused_and_the_first_keeps_its_lock(
    lab: HostLab, shell: str, word: str
) -> None:
    lab.shell = shell
    with running(lab) as first:
        for _ in range(2):
            second = lab.install() if word == "--payload" else lab.run("kind", word)
            assert second.code == 1
            assert f"another installation runs on it (process {first.pid})" in second.err
            assert f"kill {first.pid}" in second.err
            assert lock(lab).read_text() == f"{first.pid}\n"
    assert first.returncode == 143
    assert not lock(lab).exists()


def test_status_is_answered_meanwhile(lab: HostLab) -> None:
    with running(lab):
        assert lab.run("kind", "--status").code == 0


def test_a_process_that_has_the_number_now_and_is_no_installation_holds_nothing(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    lab.cluster("kind-control-plane")
    with subprocess.Popen(["sleep", "60"]) as other:
        lock(lab).write_text(f"{other.pid}\n")
        done = lab.install()
        other.kill()
    assert done.code == 0, done.err
    assert not lock(lab).exists()


def test_a_lock_that_says_nothing_is_not_taken_over(lab: HostLab) -> None:
    lab.cluster("kind-control-plane")
    lock(lab).write_text("")
    done = lab.install()
    assert done.code == 1
    assert f"the lock {lock(lab)} cannot be made or read" in done.err
    assert lock(lab).exists()


def test_runs_on_two_clusters_do_not_meet(lab: HostLab) -> None:
    with running(lab):
        done = lab.run("kind", "--rollback", "--name", "other")
        assert "no kind cluster other was found" in done.err
