"""The ordered chain of interceptors, and what becomes of a call when one of them fails.

Requests meet the chain first to last, responses and ends last to first. An interceptor that fails open (an
observer) is left out for the rest of the call it failed on, with one logged error; one that fails closed (a
policy) ends the call. Only `RejectedError` is an answer, every other exception is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cri_shim.call import Call, Code
from cri_shim.errors import RejectedError

# Told once per call and failing interceptor: its name, the call, the error.
Complain = Callable[[str, Call, Exception], None]


class Interceptor(Protocol):
    """What a capability implements; subclass it and override the hooks it needs, the others cost nothing.

    Hooks run on the event loop: they must not block. A frame is one message as bytes, without framing; a hook
    returns the frame to pass on, the same object when it changes nothing.
    """

    name: str
    fail_open: bool

    def wants(self, method: str) -> bool:
        """Whether calls of this path pass through here; asked once per method, not per call."""
        return True

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        """A frame on its way to the runtime; RejectedError ends the call, and the frame goes nowhere."""
        return frame

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        """A frame on its way to the client. RejectedError ends the call in its place."""
        return frame

    async def on_end(self, call: Call) -> None:
        """The call has ended, however it did; its code, counts and timings are final."""
        return


class Chain:
    """All interceptors, in the order of the configuration."""

    def __init__(self, interceptors: Sequence[Interceptor], complain: Complain) -> None:
        self._interceptors = tuple(interceptors)
        self._complain = complain

    def links(self, method: str) -> Links:
        """The part of the chain that asked for this method; to be kept, it does not change."""
        return Links([one for one in self._interceptors if _wants(one, method)], self._complain)


class Links:
    """The interceptors of one method."""

    def __init__(self, interceptors: Sequence[Interceptor], complain: Complain) -> None:
        self._complain = complain
        self.interceptors = tuple(interceptors)
        backwards = tuple(reversed(interceptors))
        self._request = [one for one in interceptors if _overrides(one, "on_request")]
        self._response = [one for one in backwards if _overrides(one, "on_response")]
        self._end = [one for one in backwards if _overrides(one, "on_end")]

    async def request(self, call: Call, frame: bytes) -> bytes:
        """The frame to send to the runtime; RejectedError when the call must end instead."""
        for one in self._request:
            if one.name not in call.given_up:
                try:
                    frame = _frame(await one.on_request(call, frame))
                except RejectedError:
                    raise
                except Exception as error:  # noqa: BLE001 (a third party's code: anything may come)
                    self._failed(one, call, error)
        return frame

    async def response(self, call: Call, frame: bytes) -> bytes:
        """The frame to send to the client; RejectedError when the call must end instead."""
        for one in self._response:
            if one.name not in call.given_up:
                try:
                    frame = _frame(await one.on_response(call, frame))
                except RejectedError:
                    raise
                except Exception as error:  # noqa: BLE001 (as above)
                    self._failed(one, call, error)
        return frame

    async def end(self, call: Call) -> None:
        """Tell everyone who asked; too late to change anything, so failures are only logged."""
        for one in self._end:
            if one.name not in call.given_up:
                try:
                    await one.on_end(call)
                except Exception as error:  # noqa: BLE001 (as above)
                    self._complain(one.name, call, error)

    def _failed(self, one: Interceptor, call: Call, error: Exception) -> None:
        call.given_up.add(one.name)
        self._complain(one.name, call, error)
        if not one.fail_open:
            raise RejectedError(
                Code.INTERNAL, f"podwire-shim: interceptor {one.name} failed on {call.name} and fails closed"
            ) from error


def _wants(one: Interceptor, method: str) -> bool:
    try:
        return one.wants(method)
    except Exception:  # noqa: BLE001 (then its hooks are asked, whose failures have a rule)
        return True


def _overrides(one: Interceptor, hook: str) -> bool:
    return getattr(type(one), hook, None) is not getattr(Interceptor, hook)


def _frame(frame: object) -> bytes:
    if not isinstance(frame, bytes):
        raise TypeError(f"a hook must return bytes, not {type(frame).__name__}")
    return frame
