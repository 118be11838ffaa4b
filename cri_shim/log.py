"""The shim's log: one JSON object per line, to stderr or a file, off the calls' path.

Lines are gathered and written by a thread of their own, so that a journal or a disk that does not take them
delays no call. What does not fit the bounded buffer is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

BUFFER_BYTES = 1 << 20
GATHER_SECONDS = 0.05
FILE_MODE = 0o640

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


class Log:
    """Takes records; `destination` is "stderr" or a file's absolute path, reopened when it was moved away.

    `mode` is the file's, also of one that was there; without it, a file made here has 0640. `lost` is told how
    many lines were not written.
    """

    def __init__(
        self,
        destination: str = "stderr",
        now: Callable[[], datetime] | None = None,
        *,
        mode: int | None = None,
        lost: Callable[[int], None] | None = None,
    ) -> None:
        self._path = None if destination == "stderr" else destination
        self._mode = mode
        self._fd = 2 if self._path is None else self._open(self._path)
        self._lost = lost or (lambda lines: None)
        self._torn = False
        self._now = now or (lambda: datetime.now(UTC))
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._guard = threading.Lock()
        self._some = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._work, name="log", daemon=True)
        self._writer.start()

    def event(self, event: str, **fields: object) -> None:
        """Log one record; `time` and `event` come first. Fields that are None or "" are left out."""
        record: dict[str, object] = {"time": _stamp(self._now()), "event": event}
        record.update((key, value) for key, value in fields.items() if value is not None and value != "")
        # A lone surrogate can be put into a string but not into UTF-8.
        line = _encode(record).encode(errors="backslashreplace") + b"\n"
        with self._guard:
            if self._size + len(line) > BUFFER_BYTES:
                self._dropped += 1
                self._lost(1)
                return
            self._lines.append(line)
            self._size += len(line)
            first = len(self._lines) == 1
        if first:
            self._some.set()

    def close(self) -> None:
        """Write what is left and end the thread; waits no longer than two seconds for a reader that hangs."""
        self._closing.set()
        self._some.set()
        self._writer.join(timeout=2)
        if self._path is not None and not self._writer.is_alive():
            os.close(self._fd)

    def _work(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(GATHER_SECONDS)
            self._some.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._guard:
            lines, self._lines, self._size = self._lines, [], 0
            dropped, self._dropped = self._dropped, 0
        if dropped:
            notice = {"time": _stamp(self._now()), "event": "log-dropped", "lines": dropped}
            lines.append(_encode(notice).encode() + b"\n")
        if not lines:
            return
        rest: memoryview | None = None
        try:
            self._follow_path()
            # A line that a full disk tore must not spoil the next one.
            rest = memoryview((b"\n" if self._torn else b"") + b"".join(lines))
            while rest:
                written = os.write(self._fd, rest)
                self._torn = rest[written - 1] != 0x0A
                rest = rest[written:]
        except OSError:
            # Nowhere is left to say so; calls matter more than their log.
            left = bytes(rest).count(b"\n") if rest is not None else len(lines)
            lost = max(0, left - bool(dropped))
            with self._guard:
                self._dropped += dropped + lost
            self._lost(lost)

    def _follow_path(self) -> None:
        if self._path is None:
            return
        opened = os.fstat(self._fd)
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != (opened.st_dev, opened.st_ino):
            fresh = self._open(self._path)
            os.close(self._fd)
            self._fd = fresh

    def _open(self, path: str) -> int:
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode or FILE_MODE)
        status = os.fstat(opened)
        if self._mode is not None and stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) != self._mode:
            os.fchmod(opened, self._mode)
        return opened


class Libraries(logging.Handler):
    """Puts what libraries say through `logging` (grpcio, asyncio) into the same log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """One record, with its traceback if it has one."""
        self._log.event("library", library=record.name, level=record.levelname, message=self.format(record))


def encoded_size(fields: Mapping[str, object]) -> int:
    """Bytes these fields take in a line."""
    return len(_encode(fields).encode(errors="backslashreplace"))


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
