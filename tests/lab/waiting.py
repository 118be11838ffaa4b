"""Waiting for a condition, with a bound: the only way the lab and the tests wait."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class WaitTimeoutError(AssertionError):
    """The condition did not come true in time; the message says which."""


def wait_until(
    condition: Callable[[], T | None], seconds: float, what: str, *, every: float = 0.02, hint: Callable[[], str] = str
) -> T:
    """Call `condition` until it gives something true, and return that.

    What it raises passes through at once. After `seconds`, WaitTimeoutError says `what` was waited for, with `hint()`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            more = hint()
            raise WaitTimeoutError(f"waited {seconds:g} s for {what}" + (f":\n{more}" if more else ""))
        time.sleep(every)
