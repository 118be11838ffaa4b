"""GetContainerEvents, for one client: always drained from the runtime, and whole over the runtime's restart.

containerd sends an event to each subscriber before it goes on, so a subscriber that does not read holds up every
start and exit on the node. Here the runtime's half is read without regard to the client; what the client has not
taken yet waits in a bounded ring, and a ring that overflows ends the stream, so that the client lists.

When the connection to the runtime breaks, the client's half stays open. kubelet would otherwise count an error, and
after five of them never ask for events again. What happened meanwhile is the difference between two listings. The
client's own subscription is the only one: whoever subscribes first is given what containerd kept of the last minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from grpc import aio

from cri_shim.call import Code, EndedBy, Metadata
from cri_shim.inventory import Inventory, NoListingError
from cri_shim.upstream import Upstream, cancel, write

if TYPE_CHECKING:
    from cri_shim.server import Flight

METHOD = "/runtime.v1.RuntimeService/GetContainerEvents"
# An event holds the status of its pod and all of its containers: some 2 to 20 KB.
RING_EVENTS, RING_BYTES = 1024, 16 << 20
# How long a runtime may be away; kubelet without events lists once in five minutes.
AWAY_SECONDS = 300.0
RETRY_SECONDS = 0.2
# A runtime that ends this many short subscriptions in a row, itself and with UNAVAILABLE, is not restarting.
FAREWELLS, LASTING_SECONDS = 10, 10.0


class Ring:
    """Events on their way to a client that may be slow; closed by the runtime's end of the stream."""

    def __init__(self) -> None:
        self._events: deque[bytes] = deque()
        self._size = 0
        self._some = asyncio.Event()
        self._closed = False

    def put(self, event: bytes) -> bool:
        """Whether there was room."""
        if len(self._events) >= RING_EVENTS or self._size + len(event) > RING_BYTES:
            return False
        self._events.append(event)
        self._size += len(event)
        self._some.set()
        return True

    def close(self) -> None:
        """No event follows; those inside can still be taken."""
        self._closed = True
        self._some.set()

    async def take(self) -> bytes | None:
        """The oldest event; None when there will be no more."""
        while not self._events:
            if self._closed:
                return None
            self._some.clear()
            await self._some.wait()
        event = self._events.popleft()
        self._size -= len(event)
        return event


class Subscription:
    """One client's stream of events; `run` to its end."""

    def __init__(self, upstream: Upstream, flight: Flight) -> None:
        self._upstream = upstream
        self._flight = flight
        self._links = flight.links
        self._ring = Ring()
        self._inventory = Inventory(upstream)
        self._farewells = 0
        self._sending_headers: asyncio.Task[None] | None = None
        # Events that arrived before those that were missed are known.
        self._held: list[bytes] | None = None
        self._end: tuple[int, str, EndedBy] = (Code.UNKNOWN, "", EndedBy.SHIM)
        self._trailing: Metadata = []

    async def run(self) -> None:
        """Carry the call; its end is concluded on the flight's call."""
        carry = asyncio.create_task(self._carry())
        self._flight.attach(carry)
        try:
            await carry
        finally:
            await _end(carry)
            if self._sending_headers is not None:
                # An error that overtook them would be sent together with headers of its own.
                await asyncio.wait([self._sending_headers])

    async def _carry(self) -> None:
        call, context = self._flight.call, self._flight.context
        frame = await context.read()
        request = frame if isinstance(frame, bytes) else b""
        call.request_frames, call.request_bytes = 1, len(request)
        follow = asyncio.create_task(self._follow(await self._links.request(call, request)))
        try:
            while (event := await self._taken()) is not None:
                call.response_frames += 1
                call.response_bytes += len(event)
                event = await self._links.response(call, event)
                await self._send_headers()
                await context.write(event)
            await follow
        finally:
            await _end(follow)
        call.trailing_metadata = self._trailing
        call.conclude(*self._end)

    async def _taken(self) -> bytes | None:
        waiting = time.monotonic()
        event = await self._ring.take()
        self._flight.call.upstream_seconds += time.monotonic() - waiting
        return event

    async def _follow(self, request: bytes) -> None:
        """Subscription after subscription at the runtime, until the stream has an end to tell the client."""
        known = asyncio.create_task(self._inventory.begin())
        try:
            lost = await self._subscribe(request)
            while lost and await known and await self._back():
                self._held = []
                missed = asyncio.create_task(self._missed())
                try:
                    # Subscribed before it is listed, so that nothing can happen in between.
                    lost = await self._subscribe(request)
                finally:
                    await _end(missed)
        finally:
            await _end(known)
            self._ring.close()

    async def _back(self) -> bool:
        """Wait for a runtime that went away; False when it stays away."""
        try:
            async with asyncio.timeout(AWAY_SECONDS):
                await asyncio.sleep(RETRY_SECONDS)
                await self._upstream.connected()
        except TimeoutError:
            return False
        return True

    async def _missed(self) -> None:
        """Tell the client what happened while the runtime was away, and then what has happened since."""
        try:
            async with asyncio.timeout(AWAY_SECONDS):
                while True:
                    try:
                        missed = await self._inventory.catch_up()
                        break
                    except NoListingError:
                        # A runtime that has just begun to listen may not answer yet.
                        await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            self._flight.end(Code.UNAVAILABLE, "podwire-shim: the runtime was away, and what it lists now is not known")
            return
        held, self._held = self._held or [], None
        for event in (*missed, *filter(self._inventory.note, held)):
            self._pass(event)

    async def _subscribe(self, request: bytes) -> bool:
        """Events of one subscription into the ring; returns whether it ended because the runtime went away."""
        call, began = self._flight.call, time.monotonic()
        answer = self._upstream.stream(METHOD)(metadata=tuple(call.metadata), timeout=call.time_remaining())
        headers = asyncio.create_task(self._headers(answer))
        try:
            with contextlib.suppress(aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
                await write(answer, request)
                await answer.done_writing()
            with contextlib.suppress(aio.AioRpcError):
                while isinstance(event := await answer.read(), bytes):
                    if self._held is not None:
                        self._hold(event)
                    elif self._inventory.note(event):
                        self._pass(event)
            # Not cancelled while it sends: the call's end must come behind.
            await headers
            status, text = await answer.code(), await answer.details() or ""
            self._trailing = list(await answer.trailing_metadata() or ())
            if not call.initial_metadata:
                call.initial_metadata = list(await answer.initial_metadata() or ())
        finally:
            cancel(answer)
            await _end(headers)
        code = int(status.value[0])
        own = self._upstream.own_words(code, text)
        self._end = (code, text, EndedBy.RUNTIME) if own is None else (code, own, EndedBy.SHIM)
        return own is not None or (code == Code.UNAVAILABLE and self._farewell(time.monotonic() - began))

    def _farewell(self, lasted: float) -> bool:
        """Whether a runtime's own UNAVAILABLE is taken for its going away: not when it says nothing else."""
        self._farewells = 0 if lasted > LASTING_SECONDS else self._farewells + 1
        return self._farewells <= FAREWELLS

    async def _headers(self, answer: aio.StreamStreamCall[bytes, bytes]) -> None:
        """The runtime's initial metadata as soon as it has sent them; the client may wait for them."""
        initial = list(await answer.initial_metadata() or ())
        if not answer.done():
            self._flight.call.initial_metadata = self._flight.call.initial_metadata or initial
            await self._send_headers()

    async def _send_headers(self) -> None:
        async def send() -> None:
            # A client that is gone is noticed by who serves it.
            with contextlib.suppress(aio.BaseError):
                await self._flight.send_headers(force=True)

        if self._sending_headers is None:
            self._sending_headers = asyncio.create_task(send())
        await asyncio.shield(self._sending_headers)

    def _hold(self, event: bytes) -> None:
        assert self._held is not None
        self._held.append(event)
        if len(self._held) > RING_EVENTS:
            self._overflow()

    def _pass(self, event: bytes) -> None:
        if not self._ring.put(event):
            self._overflow()

    def _overflow(self) -> None:
        self._flight.end(
            Code.RESOURCE_EXHAUSTED,
            f"podwire-shim: the client has left {RING_EVENTS} events or {RING_BYTES >> 20} MiB of them unread; the "
            "stream ends so that the runtime is not held up: list, and subscribe again",
        )


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
