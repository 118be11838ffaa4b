"""Locks of the state folder: byte ranges of one file, waited for within bounds, freed by the death of their holder."""

import _signal
import errno
import fcntl
from _struct import Struct

from cni_plugin.spec import TRY_AGAIN_LATER, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

LOCK_WAIT_SECONDS = 5.0

# Open file description locks (fcntl(2)): held by the open file, freed by its last close, even after SIGKILL.
_OFD_SETLK, _OFD_SETLKW = 37, 38
_FLOCK = Struct("=hh4xqqi4x")


class _LockTimeout(Exception):
    pass


def _expired(signal: int, frame: "FrameType | None") -> None:
    raise _LockTimeout


class Lock:
    """One byte range of the lock file, waited for at most LOCK_WAIT_SECONDS; used as a context manager."""

    def __init__(self, descriptor: int, position: int, what: str, path: str) -> None:
        self._descriptor, self._position, self._what, self._path = descriptor, position, what, path

    def __enter__(self) -> None:
        if self.try_acquire():
            return
        _signal.signal(_signal.SIGALRM, _expired)
        # Repeated, so that an alarm between here and fcntl(2) is not the last.
        _signal.setitimer(_signal.ITIMER_REAL, LOCK_WAIT_SECONDS, 0.1)
        try:
            self._set(_OFD_SETLKW, fcntl.F_WRLCK)
        except _LockTimeout:
            self.release()  # the last alarm may have come when the lock was already ours
            raise CniError(
                TRY_AGAIN_LATER,
                f"waited {LOCK_WAIT_SECONDS:g} s for the lock of {self._what} in {self._path}",
                f"`fuser -v {self._path}` names the process that holds it",
            ) from None
        finally:
            _signal.setitimer(_signal.ITIMER_REAL, 0)

    def __exit__(self, *_: object) -> None:
        self._set(_OFD_SETLK, fcntl.F_UNLCK)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it."""
        try:
            self._set(_OFD_SETLK, fcntl.F_WRLCK)
        except OSError as fault:
            if fault.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def release(self) -> None:
        """Give the lock back."""
        self.__exit__()

    def _set(self, command: int, kind: int) -> None:
        fcntl.fcntl(self._descriptor, command, _FLOCK.pack(kind, 0, self._position, 1, 0))
