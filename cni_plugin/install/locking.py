"""One at a time: the lock of the installation, who holds it, and asking an install that runs to end."""

import contextlib
import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from cni_plugin.install.journal import JournalError
from cni_plugin.install.places import Places

_EVERY = 0.05


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock; `started` tells it from a later one of the same number."""

    pid: int
    started: str
    verb: str

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return bool(self.started) and started(self.pid) == self.started

    def ask_to_end(self) -> None:
        """SIGTERM, if it is still that process."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                # Looked at after the descriptor is open, so that it is this process that gets the signal.
                if self.alive:
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            finally:
                os.close(descriptor)


def started(pid: int) -> str:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat); "" where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def holder(places: Places) -> Holder | None:
    """Who wrote itself into the lock file last, if it still runs."""
    try:
        words: Any = json.loads(places.lock.read_text())
        found = Holder(int(words["pid"]), str(words["started"]), str(words["verb"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.alive else None


class Turn:
    """The lock as a context manager. Raises JournalError when it is not free within `seconds`.

    The folder and the lock file are made for it; at the end the file goes where no journal is, and an empty folder too.
    """

    def __init__(self, places: Places, verb: str, seconds: float) -> None:
        self._places, self._verb, self._seconds = places, verb, seconds
        self._descriptor = -1

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._seconds
        while not self._try():
            if time.monotonic() >= deadline:
                found = holder(self._places)
                who = f" by `podwire-node {found.verb}` (pid {found.pid})" if found else ""
                raise JournalError(
                    f"the installation is being changed{who}; waited {self._seconds:g} s for {self._places.lock}",
                    "wait for its end; `podwire-node rollback` ends an install that runs, and undoes it",
                )
            time.sleep(_EVERY)
        words = {"pid": os.getpid(), "started": started(os.getpid()), "verb": self._verb}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(words).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._places.journal.exists():
            self._places.lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._places.lib.rmdir()
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _try(self) -> bool:
        self._places.lib.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            descriptor = os.open(self._places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False  # whoever had it has just removed the folder
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the file; then this lock excludes nobody.
            if os.fstat(descriptor).st_ino == self._places.lock.stat().st_ino:
                self._descriptor = descriptor
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return False
