"""Test sessions that run at the same time: their namespaces and files are not each other's leftovers.

A session is an abstract datagram socket: visible to all others of this network namespace, no file, gone with its
process. Who comes later tells the earlier ones, so that even a short session is known to all it overlapped. Its name
has its process and the mark of the run it belongs to.
"""

import contextlib
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

_PREFIX = "podwire-test-session-"


class Session:
    """A live test session on this machine, of the run with this mark."""

    def __init__(self, mark: str) -> None:
        self._name = f"{os.getpid()}.{mark}.{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        self._socket.bind(f"\0{_PREFIX}{self._name}")
        for name in self._others():
            self._seen.add(name)
            with contextlib.suppress(OSError):
                self._socket.sendto(self._name.encode(), f"\0{_PREFIX}{name}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def overlapped(self, run: str | None = None) -> list[str]:
        """Process ids of the sessions that lived at the same time, ended or not; without those of the run `run`."""
        with contextlib.suppress(BlockingIOError):
            while message := self._socket.recv(128):
                self._seen.add(message.decode())
        named = (name.split(".") for name in self._seen)
        return sorted(pid for pid, mark, _ in named if run is None or mark != run)

    def _others(self) -> list[str]:
        # Abstract names stand in the table's last column with @ for the leading zero byte.
        rows = Path("/proc/net/unix").read_text().splitlines()[1:]
        listed = [row.split()[-1] for row in rows]
        names = [name.removeprefix(f"@{_PREFIX}") for name in listed if name.startswith(f"@{_PREFIX}")]
        return [name for name in names if name != self._name]
