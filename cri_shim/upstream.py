"""The runtime's side: one channel for everything, kept connected, and the words for when it is away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from cri_shim import schema
from cri_shim.call import Code
from cri_shim.endpoint import Endpoint
from cri_shim.errors import AskError, UnknownMessageError

# Without these grpc-core refuses messages over 4 MiB, and drops a status whose text and details exceed 8 KiB:
# containerd puts the output of a failed command into the text.
LIMITS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 21),
)
CONNECT_TIMEOUT_MS = 5000

# What grpc-core says of its own accord; an UNAVAILABLE that the runtime gave has another text.
LOCAL_TEXT = re.compile(
    r"failed to connect to all addresses; last error: .*"
    r"|Stream removed(?: \(.*\))?"
    r"|GOAWAY received.*"
    r"|Socket closed|Endpoint closing|Transport closed"
    r"|(?:recvmsg|sendmsg): ?.*",
    re.DOTALL,
)


class Upstream:
    """The channel to the runtime; to be made on the event loop that uses it."""

    def __init__(self, endpoint: Endpoint, reconnect_initial: float, reconnect_max: float) -> None:
        self.endpoint = endpoint
        self._channel = aio.insecure_channel(
            # The path is part of a URI here: what has a meaning in one must be quoted.
            f"unix:{quote(endpoint.path)}",
            options=[
                *LIMITS,
                # For a unix target grpc-core would send the quoted path, which h2 of Rust refuses.
                ("grpc.default_authority", "localhost"),
                # A call that may have had an effect is never sent again.
                ("grpc.enable_retries", 0),
                ("grpc.service_config_disable_resolution", 1),
                ("grpc.initial_reconnect_backoff_ms", round(reconnect_initial * 1000)),
                ("grpc.max_reconnect_backoff_ms", round(reconnect_max * 1000)),
                # Bounds one attempt to connect, despite its name, not the pause between two.
                ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
            ],
        )

    def unary(self, method: str) -> aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """What sends one frame and awaits one, both as bytes."""
        return self._channel.unary_unary(method)

    def stream(self, method: str) -> aio.StreamStreamMultiCallable[bytes, bytes]:
        """What sends and receives any number of frames, as bytes."""
        return self._channel.stream_stream(method)

    async def ask(self, name: str, **fields: object) -> schema.RuntimeMessage:
        """A call of the shim's own, by the method's short name; unary methods of the schema only.

        AskError when it fails. It has no deadline: how long to wait is the caller's.
        """
        method = next((one for one in schema.methods().values() if one.name == name and one.unary), None)
        if method is None:
            raise UnknownMessageError(f"the schema has no unary method {name!r}")
        request = schema.message(method.request)(**fields).SerializeToString()
        try:
            response = await outcome(self.unary(method.path)(request))
            return schema.message(method.response).FromString(response)
        except aio.AioRpcError as error:
            raise AskError(int(error.code().value[0]), f"{name}: {error.details()}") from error
        except DecodeError as error:
            raise AskError(Code.INTERNAL, f"{name}: the runtime's response cannot be read: {error}") from error

    async def watch(self, changed: Callable[[bool], None]) -> None:
        """Keep the connection up and report whether it is: first what it is now, then each change."""
        connected: bool | None = None
        while True:
            # An idle channel connects by itself only for a call; the caller should not wait for that.
            state = self._channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                return
            if (state is grpc.ChannelConnectivity.READY) is not connected:
                connected = state is grpc.ChannelConnectivity.READY
                changed(connected)
            await self._channel.wait_for_state_change(state)

    async def connected(self) -> None:
        """Wait until the runtime answers, as HTTP/2 at least."""
        await self._channel.channel_ready()

    def own_words(self, code: int, text: str) -> str | None:
        """When an error is not the runtime's but means that it is away: a text that names it. Else None."""
        if code == Code.UNAVAILABLE and LOCAL_TEXT.fullmatch(text):
            return f"podwire-shim: upstream {self.endpoint} is not available: {text}"
        return None

    async def close(self) -> None:
        """End the connection and every call on it."""
        await self._channel.close()


async def outcome(answer: aio.UnaryUnaryCall[bytes, bytes]) -> bytes:
    """The response of a unary call; AioRpcError when it ended otherwise.

    A grpcio task that is cancelled while it waits for grpc-core loses what it allocated for that, some 0.8 KB
    (grpc/grpc issue 43360). So cancellation goes to grpc-core, and the task ends by what that answers.
    """
    ended = asyncio.Event()
    answer.add_done_callback(lambda _: ended.set())
    try:
        await ended.wait()
    except asyncio.CancelledError:
        cancel(answer)
        raise
    return await answer


def cancel(answer: aio.Call | asyncio.Task[None]) -> None:
    """Cancel a call at the runtime without cancelling grpcio's task for it (see `outcome`)."""
    raw: Any = getattr(answer, "_cython_call", None)
    if raw is None:
        answer.cancel()
    elif not answer.done():
        raw.cancel("cancelled by podwire-shim")


async def write(answer: aio.StreamStreamCall[bytes, bytes], frame: bytes) -> None:
    """Send one frame without spoiling the call's status.

    When the runtime ends a call before it has read all of it, a write in progress fails. grpcio's own write()
    then puts INTERNAL "Internal error from Core" in the place of the status that is about to arrive.
    """
    await answer.wait_for_connection()
    raw: Any = getattr(answer, "_cython_call", None)
    if raw is None:
        await answer.write(frame)
    else:
        await raw.send_serialized_message(frame)
