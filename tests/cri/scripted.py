"""The two ends of the relay, scripted: a runtime that does what a test says, and a shim as a real process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from grpc import aio

ROOT = Path(__file__).resolve().parents[2]
BOUND = 20.0
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 21),
    ("grpc.default_authority", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]

VERSION = "/runtime.v1.RuntimeService/Version"
EVENTS = "/runtime.v1.RuntimeService/GetContainerEvents"
PULL = "/runtime.v1.ImageService/PullImage"
FUTURE = "/runtime.v9.FutureService/Invented"
FOREIGN = "/containerd.services.tasks.v1.Tasks/List"

Context = aio.ServicerContext[bytes, bytes]
Behaviour = Callable[[Context], Awaitable[None]]


async def until(condition: Callable[[], object], what: str, bound: float = BOUND) -> None:
    """Wait for a condition that another process or task brings about."""
    deadline = asyncio.get_running_loop().time() + bound
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {bound} s: {what}"
        await asyncio.sleep(0.005)


async def echo(context: Context) -> None:
    """Every frame back, in order."""
    while isinstance(frame := await context.read(), bytes):
        await context.write(frame)


@dataclass
class Runtime(grpc.GenericRpcHandler):
    """An upstream whose methods are reader/writer behaviours; all others are UNIMPLEMENTED."""

    path: Path
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    server: aio.Server | None = None

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = details.method
        behaviour = self.behaviours.get(method)
        if behaviour is None:
            return None

        async def run(requests: object, context: Context) -> None:
            self.calls.append(method)
            try:
                await behaviour(context)
            except asyncio.CancelledError:
                self.cancelled.append(method)
                raise

        return grpc.stream_stream_rpc_method_handler(run)

    async def start(self) -> None:
        self.server = aio.server(options=OPTIONS)
        self.server.add_generic_rpc_handlers((self,))
        self.server.add_insecure_port(f"unix:{quote(str(self.path))}")
        await self.server.start()

    async def stop(self, grace: float | None = None) -> None:
        if self.server is not None:
            await self.server.stop(grace)
            self.server = None
        self.path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def severable(path: Path, behind: Path) -> AsyncIterator[Callable[[], None]]:
    """Listens at `path` and copies to and from `behind` until the function it yields cuts every connection."""
    writers: list[asyncio.StreamWriter] = []
    pumps: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(1 << 16):
                writer.write(block)
                await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(behind))
        writers.extend((writer, inner_writer))
        pumps.append(asyncio.create_task(pump(reader, inner_writer)))
        pumps.append(asyncio.create_task(pump(inner_reader, writer)))

    listener = await asyncio.start_unix_server(accept, str(path))

    def sever() -> None:
        listener.close()
        path.unlink(missing_ok=True)
        for writer in writers:
            writer.transport.abort()

    try:
        yield sever
    finally:
        sever()
        for one in pumps:
            one.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class Shim:
    """podwire-shim as a process of its own; `log` holds its JSON lines, `trouble` what is none of them."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Path, listen: Path) -> None:
        self.process = process
        self.listen = listen
        self._stderr = stderr

    @property
    def trouble(self) -> list[str]:
        return [line for line in self._lines() if not line.startswith("{")]

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines() if line.startswith("{")]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    async def logged(self, method: str, count: int = 1) -> dict[str, Any]:
        """The newest line of a method, once there are `count`."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.events("call") if line["method"] == method]

        await until(lambda: len(found()) >= count, f"{count} log lines of {method}: {self._lines()}")
        return found()[-1]

    async def exit(self, number: int | None = None) -> int:
        """Its exit code, after a signal when one is given."""
        if number is not None:
            self.process.send_signal(number)
        await until(lambda: self.process.poll() is not None, "the shim's exit")
        return self.process.returncode

    def _lines(self) -> list[str]:
        text = self._stderr.read_text()
        return text[: text.rfind("\n") + 1].splitlines()


@contextlib.asynccontextmanager
async def shim_process(
    folder: Path,
    *,
    config: str = "",
    wait: bool = True,
    env: dict[str, str] | None = None,
    name: str = "shim",
    arguments: Sequence[str] = (),
) -> AsyncIterator[Shim]:
    """A shim from `folder`/cri.sock to `folder`/runtime.sock, gone afterwards whatever happened."""
    (folder / f"{name}.toml").write_text(config)
    stderr = folder / f"{name}.stderr"
    argv = [
        *(sys.executable, "-m", "cri_shim", "--listen", f"unix://{folder}/cri.sock"),
        *("--upstream", f"unix://{folder}/runtime.sock", "--config", f"{folder}/{name}.toml"),
        *arguments,
    ]
    with stderr.open("wb") as stream:
        process = subprocess.Popen(  # noqa: ASYNC220 (the fork is short, and waited for by polling)
            argv, cwd=ROOT, stderr=stream, env=os.environ | (env or {})
        )
    shim = Shim(process, stderr, folder / "cri.sock")
    try:
        if wait:
            await until(lambda: shim.events("listening") or process.poll() is not None, "the shim listens")
            assert process.poll() is None, stderr.read_text()
        yield shim
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(BOUND)


@dataclass
class Outcome:
    """All a client can see of a call."""

    code: grpc.StatusCode
    text: str
    frames: list[bytes]
    initial: list[tuple[str, str | bytes]]
    trailing: list[tuple[str, str | bytes]]


class Client:
    """A client that sees everything; every method is called as a stream, or as unary when `unary` is asked."""

    def __init__(self, path: Path) -> None:
        self.channel = aio.insecure_channel(f"unix:{quote(str(path))}", options=OPTIONS)

    def open(self, method: str, **options: Any) -> aio.StreamStreamCall[bytes, bytes]:
        return self.channel.stream_stream(method)(**options)

    async def stream(self, method: str, *requests: bytes, **options: Any) -> Outcome:
        call = self.open(method, **options)
        frames: list[bytes] = []
        with contextlib.suppress(asyncio.InvalidStateError, aio.AioRpcError):
            for request in requests:
                await call.write(request)
            await call.done_writing()
        with contextlib.suppress(aio.AioRpcError):
            while isinstance(frame := await call.read(), bytes):
                frames.append(frame)
        return await _outcome(call, frames)

    async def unary(self, method: str, request: bytes = b"", **options: Any) -> Outcome:
        ask: aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(method)
        call = ask(request, **options)
        frames = []
        with contextlib.suppress(aio.AioRpcError):
            frames.append(await call)
        return await _outcome(call, frames)


async def _outcome(call: Any, frames: list[bytes]) -> Outcome:
    return Outcome(
        code=await call.code(),
        text=await call.details() or "",
        frames=frames,
        initial=list(await call.initial_metadata()),
        trailing=list(await call.trailing_metadata()),
    )
