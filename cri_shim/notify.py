"""What systemd is told (sd_notify(3)): ready, status, stopping, and that the event loop still turns.

Without NOTIFY_SOCKET every call does nothing. A lost notification never stops the shim.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to the address systemd gave; `watchdog_seconds` is how often it wants to hear, None for never."""

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract address.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog(env)

    def mute(self) -> None:
        """Say nothing more: from a hand-over on, only the successor speaks for the service."""
        self._address = ""

    def ready(self, status: str) -> None:
        """The socket is in place and served by this process; the upstream may still be away."""
        self.send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self.send(f"STATUS={text}")

    def stopping(self, status: str) -> None:
        """No new calls are taken; those in flight may still be ending."""
        self.send(f"STOPPING=1\nSTATUS={status}")

    def alive(self) -> None:
        """Feeds the watchdog; to be called from the event loop it vouches for."""
        self.send("WATCHDOG=1")

    def send(self, state: str) -> None:
        """Any assignment lines as they are."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(state.encode(), self._address)
            except OSError:
                pass


def _watchdog(env: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises, unless it is meant for another process."""
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(env.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 else None
