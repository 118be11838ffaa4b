"""One JSON line per call: what was asked, what came of it, and how long each phase took.

It is written after the answer, never blocks and never fails a call. `start` is the processor time that the
interpreter took before the first line of ours; the other phases are wall time. All in milliseconds.
"""

import _socket
import posix
import time

from cni_plugin import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SYSLOG_SOCKET = "/dev/log"
_DAEMON_INFO, _DAEMON_ERROR = 30, 27


class Journal:
    """Collects the line of one call."""

    def __init__(self) -> None:
        self.target = "none"
        self.fields: dict[str, Any] = {}
        self.notes: list[str] = []
        self.phases: dict[str, float] = {"start": round(time.process_time() * 1000, 3)}
        self._began = self._last = time.perf_counter()

    def mark(self, phase: str) -> None:
        """The phase that ends here took the time since the mark before."""
        now = time.perf_counter()
        self.phases[phase] = round((now - self._last) * 1000, 3)
        self._last = now

    def note(self, text: str) -> None:
        """Something worth reading that is no failure."""
        self.notes.append(text)

    def write(self, code: int, message: str) -> None:
        """Send the line to where the configuration's key `log` points."""
        if self.target == "none":
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **self.fields,
            "code": code,
            "total_ms": round((time.perf_counter() - self._began) * 1000 + self.phases["start"], 3),
            "phases": self.phases,
        }
        if message:
            line["msg"] = message
        if self.notes:
            line["notes"] = self.notes
        try:
            if self.target == "syslog":
                _to_syslog(jsontext.dumps(line), code)
            else:
                _to_file(self.target, jsontext.dumps(line))
        except (OSError, ValueError):
            pass  # a full disk, an absent syslog or an odd path is no reason to fail a pod


def _to_syslog(text: str, code: int) -> None:
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        priority = _DAEMON_ERROR if code else _DAEMON_INFO
        channel.connect(_SYSLOG_SOCKET)
        channel.send(f"<{priority}>podwire[{posix.getpid()}]: {text}".encode())
    finally:
        channel.close()


def _to_file(path: str, text: str) -> None:
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
    descriptor = posix.open(path, flags, 0o600)
    try:
        posix.write(descriptor, text.encode() + b"\n")
    finally:
        posix.close(descriptor)
