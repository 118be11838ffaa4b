"""One call's way through the shim: bytes in, the chain, bytes out, and the end as the runtime gave it.

A method the schema knows to be unary gets a unary handler. Anything else, known to stream or not known at
all, gets a stream-stream handler: on the wire every other kind is a special case of it, while a unary handler
would hang on a method that turns out to stream.

What grpcio keeps to itself cannot pass: the user agent, grpc-trace-bin and grpc-tags-bin, the order of
metadata under different keys, and on a stream the initial metadata when an error follows them at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
from grpc import aio

from cri_shim import events, watchdog
from cri_shim.call import Call, Code, EndedBy, Metadata
from cri_shim.chain import Chain, Links
from cri_shim.errors import RejectedError
from cri_shim.schema import methods
from cri_shim.upstream import LIMITS, Upstream, cancel, outcome, write

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *LIMITS,
    ("grpc.so_reuseport", 0),
    # A client that pings often is no reason to hang up on it: nobody but this node can reach the socket.
    ("grpc.http2.max_ping_strikes", 0),
)

# Set anew by grpc-core on every hop; passing them on would contradict or repeat its own.
HOP_KEYS = frozenset(
    ("user-agent", "content-type", "te", "host", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding")
)
STATUS = {status.value[0]: status for status in grpc.StatusCode}

# Methods remembered with their part of the chain; a client that invents more gets a handler per call.
METHODS_KEPT = 512
# Streams without an end of their own: a drain must not wait for them.
ENDLESS = frozenset((events.METHOD,))

Context = aio.ServicerContext[bytes, bytes]


class Flight:
    """A call in progress, with what only the transport may touch."""

    __slots__ = ("_headers_sent", "_upstream", "call", "context", "links", "verdict")

    def __init__(self, call: Call, context: Context, links: Links) -> None:
        self.call = call
        self.context = context
        self.links = links
        self._headers_sent = False
        self.verdict: tuple[int, str] | None = None
        self._upstream: aio.Call | asyncio.Task[None] | None = None

    def attach(self, upstream_call: aio.Call | asyncio.Task[None]) -> None:
        """The runtime's half of the call now exists, or a task that stands for it."""
        self._upstream = upstream_call
        if self.verdict is not None:
            cancel(upstream_call)

    async def send_headers(self, force: bool = False) -> None:
        """The runtime's initial metadata, once; grpcio sends empty ones by itself unless forced."""
        if (force or self.call.initial_metadata) and not self._headers_sent:
            self._headers_sent = True
            await self.context.send_initial_metadata(tuple(self.call.initial_metadata))

    def end(self, code: int, text: str) -> None:
        """End the call on both sides with the shim's own verdict; the first one holds."""
        if self.verdict is None:
            self.verdict = (code, text)
            if self._upstream is not None:
                cancel(self._upstream)


class Relay(grpc.GenericRpcHandler):
    """Answers for every method of every service by asking the upstream."""

    def __init__(self, upstream: Upstream, chain: Chain) -> None:
        self._upstream = upstream
        self._chain = chain
        self._links: dict[str, Links] = {}
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._flights: set[Flight] = set()
        self._landed = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Called by grpcio for each call, with its path."""
        if details.method == watchdog.PROBE:
            return watchdog.handler()
        handler = self._handlers.get(details.method)
        if handler is None:
            handler = self._handler(details.method)
            if len(self._handlers) < METHODS_KEPT:
                self._handlers[details.method] = handler
        return handler

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return len(self._flights)

    def end_calls(self, code: int, text: str, which: Callable[[Call], bool] = lambda call: True) -> None:
        """End calls from outside, explicitly: the client reads this code and text."""
        for flight in tuple(self._flights):
            if which(flight.call):
                flight.end(code, text)

    def use(self, chain: Chain) -> None:
        """Calls from now on pass through this chain; those in flight end with the one they began with."""
        self._chain, self._links = chain, {}

    async def landed(self, which: Callable[[Links], bool] = lambda links: True) -> None:
        """Wait until no call is in flight, or none that passes through such links."""
        while any(which(flight.links) for flight in self._flights):
            self._landed.clear()
            await self._landed.wait()

    def _links_of(self, method: str) -> Links:
        links = self._links.get(method)
        if links is None:
            links = self._chain.links(method)
            if len(self._links) < METHODS_KEPT:
                self._links[method] = links
        return links

    def _handler(self, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        known = methods().get(method)
        if known is not None and known.unary:
            unary = self._upstream.unary(method)

            async def forward(request: bytes, context: Context) -> bytes:
                response = b""

                async def work(flight: Flight) -> None:
                    nonlocal response
                    response = await self._exchange(flight, unary, request)

                await self._carry(method, context, work)
                return response

            return grpc.unary_unary_rpc_method_handler(forward)

        stream = self._upstream.stream(method)
        if method == events.METHOD:

            async def forward_events(requests: object, context: Context) -> None:
                async def work(flight: Flight) -> None:
                    await events.Subscription(self._upstream, flight).run()

                await self._carry(method, context, work)

            return grpc.stream_stream_rpc_method_handler(forward_events)

        async def forward_stream(requests: object, context: Context) -> None:
            async def work(flight: Flight) -> None:
                await self._pump(flight, stream)

            await self._carry(method, context, work)

        return grpc.stream_stream_rpc_method_handler(forward_stream)

    async def _carry(self, method: str, context: Context, work: Callable[[Flight], Awaitable[None]]) -> None:
        """Everything around the frames: the call's beginning, its one end, and telling both sides."""
        call = Call(method, _incoming(context), context.time_remaining())
        flight = Flight(call, context, self._links_of(method))
        self._flights.add(flight)
        try:
            try:
                await work(flight)
            except aio.AioRpcError as error:
                call.initial_metadata = _metadata(error.initial_metadata())
                call.trailing_metadata = _metadata(error.trailing_metadata())
                self._conclude(call, error.code(), error.details())
            except RejectedError as rejection:
                call.conclude(rejection.code, rejection.text, EndedBy.SHIM)
            except aio.UsageError as error:
                call.conclude(Code.UNAVAILABLE, f"podwire-shim is stopping: {error}", EndedBy.SHIM)
            except asyncio.CancelledError:
                if flight.verdict is None:
                    _conclude_departed(call)
                    raise
                # Not this task was cancelled but the upstream's call, by a verdict. CancelledError must not
                # leave a handler then: the client would wait for a status that never comes.
                call.conclude(*flight.verdict, EndedBy.SHIM)
            if call.code != Code.OK:
                # Before the client has it: one that never reads must not hold up a drain.
                self._land(flight)
                await flight.send_headers()
                status = STATUS.get(call.code or Code.UNKNOWN, grpc.StatusCode.UNKNOWN)
                await context.abort(status, call.text, tuple(call.trailing_metadata))
            if call.trailing_metadata:
                context.set_trailing_metadata(tuple(call.trailing_metadata))
        except aio.InternalError as error:
            # grpc-core could not send: the client went away in this moment, and nobody is left to tell.
            _conclude_departed(call)
            raise asyncio.CancelledError from error
        finally:
            call.conclude(Code.UNKNOWN, "podwire-shim failed on this call", EndedBy.SHIM)
            self._land(flight)
            await flight.links.end(call)

    def _land(self, flight: Flight) -> None:
        self._flights.discard(flight)
        self._landed.set()

    async def _exchange(
        self,
        flight: Flight,
        method: aio.UnaryUnaryMultiCallable[bytes, bytes],
        request: bytes,
    ) -> bytes:
        """One frame there and one back."""
        call, links = flight.call, flight.links
        call.request_frames, call.request_bytes = 1, len(request)
        request = await links.request(call, request)
        if flight.verdict is not None:
            raise RejectedError(*flight.verdict)
        sent = time.monotonic()
        try:
            answer = method(request, metadata=tuple(call.metadata), timeout=call.time_remaining())
            flight.attach(answer)
            response = await outcome(answer)
            call.initial_metadata = _metadata(await answer.initial_metadata())
            call.trailing_metadata = _metadata(await answer.trailing_metadata())
        finally:
            call.upstream_seconds = time.monotonic() - sent
        call.response_frames, call.response_bytes = 1, len(response)
        response = await links.response(call, response)
        await flight.send_headers()
        call.conclude(Code.OK, "", EndedBy.RUNTIME)
        return response

    async def _pump(self, flight: Flight, method: aio.StreamStreamMultiCallable[bytes, bytes]) -> None:
        """Frames both ways at once, each one only when the other side has taken the one before."""
        call, context, links = flight.call, flight.context, flight.links
        answer = method(metadata=tuple(call.metadata), timeout=call.time_remaining())
        flight.attach(answer)
        sender = asyncio.create_task(self._send(flight, answer))
        try:
            waiting = time.monotonic()
            call.initial_metadata = _metadata(await answer.initial_metadata())
            call.upstream_seconds += time.monotonic() - waiting
            if not answer.done():
                # At once and even if empty: a client may wait for them before it sends.
                await flight.send_headers(force=True)
            while True:
                waiting = time.monotonic()
                frame = await answer.read()
                call.upstream_seconds += time.monotonic() - waiting
                if not isinstance(frame, bytes):
                    break
                call.response_frames += 1
                call.response_bytes += len(frame)
                await context.write(await links.response(call, frame))
            call.trailing_metadata = _metadata(await answer.trailing_metadata())
            self._conclude(call, await answer.code(), await answer.details())
            await flight.send_headers()
        finally:
            sender.cancel()
            cancel(answer)
            await asyncio.wait([sender])

    async def _send(self, flight: Flight, answer: aio.StreamStreamCall[bytes, bytes]) -> None:
        """The client's frames. How the call ends is found out where its responses are read."""
        call = flight.call
        try:
            while isinstance(frame := await flight.context.read(), bytes):
                call.request_frames += 1
                call.request_bytes += len(frame)
                await write(answer, await flight.links.request(call, frame))
            await answer.done_writing()
        except RejectedError as rejection:
            flight.end(rejection.code, rejection.text)
        except (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            # The runtime may end a call before it has read all of it.
            pass
        except Exception as error:  # noqa: BLE001 (here it would be seen by nobody, and the call would hang)
            flight.end(Code.INTERNAL, f"podwire-shim failed to send a frame: {error!r}")

    def _conclude(self, call: Call, status: grpc.StatusCode, text: str | None) -> None:
        code, text = int(status.value[0]), text or ""
        own = self._upstream.own_words(code, text)
        if own is None:
            call.conclude(code, text, EndedBy.RUNTIME)
        else:
            call.conclude(code, own, EndedBy.SHIM)


def _conclude_departed(call: Call) -> None:
    if call.time_remaining() == 0:
        call.conclude(Code.DEADLINE_EXCEEDED, "the client's deadline passed", EndedBy.CLIENT)
    else:
        call.conclude(Code.CANCELLED, "the client cancelled or went away", EndedBy.CLIENT)


def _incoming(context: Context) -> Metadata:
    return [(key, value) for key, value in context.invocation_metadata() or () if key not in HOP_KEYS]


def _metadata(received: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    return list(received or ())
