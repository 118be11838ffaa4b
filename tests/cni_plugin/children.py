"""Work in forked processes: locks and races need more than one."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a child and return its pid; the child ends with 0, or with 1 and a traceback on stderr."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - pytest must not run on in the child
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def holder(acquire: Callable[[], object], until: Callable[[], object]) -> Iterator[int]:
    """The pid of a child that has called `acquire` already, and ends when `until` returns (or by a signal)."""
    ready, tell = os.pipe()

    def work() -> None:
        acquire()
        os.write(tell, b"1")
        until()

    child = fork(work)
    try:
        os.close(tell)
        assert os.read(ready, 1) == b"1"
        yield child
    finally:
        os.close(ready)
        try:
            os.kill(child, 9)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
