"""A client with kubelet's habits: two connections, calls that fail fast and are not repeated, one event stream.

Like grpc-go, grpc-core sends a call again that the server has certainly not seen (it crossed a GOAWAY); neither is
told to repeat any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from grpc import aio

from tests.cri.scripted import EVENTS, PULL

STATUS = "/runtime.v1.RuntimeService/Status"
LIST = "/runtime.v1.RuntimeService/ListContainers"
IMAGES = "/runtime.v1.ImageService/ListImages"
# Those of k8s.io/cri-client: 100 ms to 3 s between attempts to connect, 16 MiB.
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3000),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.default_authority", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass
class Tally:
    """What came of the calls: how many were answered, what failed, how often the event stream ended."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    stream_ends: list[str] = field(default_factory=list)
    subscribed: int = 0


@contextlib.asynccontextmanager
async def kubelet(path: Path, callers: int = 8, pause: float = 0.002) -> AsyncIterator[Tally]:
    """Calls from all of `callers` at once, each again after `pause` seconds, while the block runs."""
    tally, stop = Tally(), asyncio.Event()
    channels = [aio.insecure_channel(f"unix:{quote(str(path))}", options=OPTIONS) for _ in range(2)]

    async def ask(channel: aio.Channel, method: str, seconds: float | None, between: float) -> None:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        while not stop.is_set():
            try:
                assert await call(method.encode(), timeout=seconds) == method.encode()
                tally.answered += 1
            except aio.AioRpcError as error:
                tally.failures.append(f"{method}: {error.code().name}: {error.details()}")
            await asyncio.sleep(between)

    async def listen() -> None:
        while not stop.is_set():
            subscribe: aio.UnaryStreamMultiCallable[bytes, bytes] = channels[0].unary_stream(EVENTS)
            try:
                async for _ in subscribe(b""):
                    tally.subscribed += 1
            except aio.AioRpcError as error:
                tally.stream_ends.append(f"{error.code().name}: {error.details()}")

    listener = asyncio.create_task(listen())
    tasks = [
        asyncio.create_task(ask(channels[n % 4 == 3], (STATUS, LIST, STATUS, IMAGES)[n % 4], 120, pause))
        for n in range(callers)
    ]
    tasks.append(asyncio.create_task(ask(channels[1], PULL, None, pause)))
    try:
        yield tally
    finally:
        stop.set()
        listener.cancel()
        await asyncio.wait([listener])
        await asyncio.gather(*tasks)
        for channel in channels:
            await channel.close()
