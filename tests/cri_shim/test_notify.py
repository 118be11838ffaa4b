"""sd_notify: what is sent, to whom, and that nothing depends on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_shim.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """An address as systemd puts it into NOTIFY_SOCKET, and the socket behind it."""
    address = str(tmp_path / "n") if request.param == "path" else f"@podwire-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + address[1:] if address.startswith("@") else address)
        sock.settimeout(5)
        yield address, sock


def test_each_state_is_one_datagram(systemd: tuple[str, socket.socket]) -> None:
    address, sock = systemd
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("waiting")
    assert sock.recv(999).decode() == f"READY=1\nMAINPID={os.getpid()}\nSTATUS=waiting"
    notifier.status("relaying")
    assert sock.recv(999) == b"STATUS=relaying"
    notifier.stopping("draining")
    assert sock.recv(999) == b"STOPPING=1\nSTATUS=draining"
    notifier.alive()
    assert sock.recv(999) == b"WATCHDOG=1"


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": "/no/such/socket"}], ids=["no-systemd", "gone"])
def test_without_a_listener_nothing_happens(env: dict[str, str]) -> None:
    Notifier(env).ready("ready")


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        pytest.param({}, None, id="unset"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 15.0, id="half"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0, id="for-us"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="for-another"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="garbage"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero"),
    ],
)
def test_the_watchdog_is_fed_at_half_its_interval(env: dict[str, str], seconds: float | None) -> None:
    assert Notifier(env).watchdog_seconds == seconds
