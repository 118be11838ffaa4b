"""Test sessions that run at the same time: their namespaces and files are not each other's leftovers.

A session is an abstract datagram socket: visible to all others of this network namespace, no file, gone with its
process. Who comes later tells the earlier ones, so that even a short session is known to all it overlapped.
"""

import contextlib
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

_PREFIX = "podwire-test-session-"


class Session:
    """A live test session on this machine."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        self._socket.bind(f"\0{_PREFIX}{os.getpid()}")
        for pid in self._others():
            self._seen.add(pid)
            with contextlib.suppress(OSError):
                self._socket.sendto(str(os.getpid()).encode(), f"\0{_PREFIX}{pid}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def overlapped(self) -> list[str]:
        """Process ids of the sessions that lived at the same time, ended or not."""
        with contextlib.suppress(BlockingIOError):
            while message := self._socket.recv(32):
                self._seen.add(message.decode())
        return sorted(self._seen)

    def _others(self) -> list[str]:
        # Abstract names stand in the table's last column with @ for the leading zero byte.
        rows = Path("/proc/net/unix").read_text().splitlines()[1:]
        names = [row.split()[-1] for row in rows]
        pids = [name.removeprefix(f"@{_PREFIX}") for name in names if name.startswith(f"@{_PREFIX}")]
        return [pid for pid in pids if pid != str(os.getpid())]
