"""Interceptors on real calls: what they change arrives, what they refuse ends, what they break passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc import aio

from cri_shim.call import Call, Code
from cri_shim.chain import Chain, Interceptor
from cri_shim.endpoint import Endpoint
from cri_shim.errors import RejectedError
from cri_shim.server import SERVER_OPTIONS, Relay
from cri_shim.upstream import Upstream
from tests.cri.scripted import BOUND, EVENTS, FUTURE, VERSION, Client, Context, Runtime, echo, until

METHODS = [pytest.param(VERSION, id="unary"), pytest.param(EVENTS, id="events"), pytest.param(FUTURE, id="unknown")]


class Base(Interceptor):
    """Counts the ends it is told of."""

    name = "test"
    fail_open = True

    def __init__(self) -> None:
        self.ends: list[tuple[int | None, str]] = []

    async def on_end(self, call: Call) -> None:
        self.ends.append((call.code, call.text))


Story = Callable[[Client, Runtime], Awaitable[None]]


def relayed(folder: Path, interceptor: Interceptor, story: Story) -> list[str]:
    """Play the story through a relay with one interceptor; the errors it was reported with."""
    complaints: list[str] = []

    async def whole() -> None:
        runtime = Runtime(folder / "runtime.sock")
        await runtime.start()
        upstream = Upstream(Endpoint(str(runtime.path)), 0.1, 0.5)
        chain = Chain([interceptor], lambda name, call, error: complaints.append(f"{name}: {error}"))
        server = aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((Relay(upstream, chain),))
        server.add_insecure_port(f"unix:{folder}/cri.sock")
        await server.start()
        client = Client(folder / "cri.sock")
        try:
            async with asyncio.timeout(BOUND):
                await story(client, runtime)
        finally:
            await client.channel.close()
            await server.stop(0)
            await upstream.close()
            await runtime.stop(grace=0)

    asyncio.run(whole())
    return complaints


@pytest.mark.parametrize("method", METHODS)
def test_changed_frames_and_metadata_arrive(folder: Path, method: str) -> None:
    class Changes(Base):
        async def on_request(self, call: Call, frame: bytes) -> bytes:
            call.metadata.append(("added", "yes"))
            return b"<" + frame

        async def on_response(self, call: Call, frame: bytes) -> bytes:
            return frame + b">"

    async def story(client: Client, runtime: Runtime) -> None:
        async def answer(context: Context) -> None:
            if method == VERSION:
                assert ("added", "yes") in list(context.invocation_metadata() or ())
            await echo(context)

        runtime.behaviours[method] = answer
        answered = await client.unary(method, b"x")
        assert (answered.code, answered.frames) == (grpc.StatusCode.OK, [b"<x>"])

    interceptor = Changes()
    assert relayed(folder, interceptor, story) == []
    assert interceptor.ends == [(Code.OK, "")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["on_request", "on_response", "on_end"])
def test_an_observer_that_raises_does_not_break_the_call(folder: Path, method: str, where: str) -> None:
    async def broken(*anything: object) -> bytes:
        raise ZeroDivisionError("broken")

    interceptor = type("Broken", (Base,), {where: broken})()

    async def story(client: Client, runtime: Runtime) -> None:
        runtime.behaviours[method] = echo
        for _ in range(2):
            answered = await client.unary(method, b"x")
            assert (answered.code, answered.frames) == (grpc.StatusCode.OK, [b"x"])

    assert relayed(folder, interceptor, story) == ["test: broken"] * 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["on_request", "on_response"])
def test_a_rejection_is_what_the_client_reads(folder: Path, method: str, where: str) -> None:
    async def reject(*anything: object) -> bytes:
        raise RejectedError(Code.PERMISSION_DENIED, "not with these labels: größer\nask ops")

    interceptor: Base = type("Policy", (Base,), {where: reject})()

    async def story(client: Client, runtime: Runtime) -> None:
        runtime.behaviours[method] = echo
        answered = await client.unary(method, b"x", timeout=BOUND)
        assert answered.code is grpc.StatusCode.PERMISSION_DENIED
        assert answered.text == "not with these labels: größer\nask ops"
        assert answered.frames == []
        if where == "on_request" and method == VERSION:
            assert runtime.calls == []

    assert relayed(folder, interceptor, story) == []
    assert interceptor.ends == [(Code.PERMISSION_DENIED, "not with these labels: größer\nask ops")]


@pytest.mark.parametrize("method", METHODS)
def test_a_policy_that_raises_ends_the_call(folder: Path, method: str) -> None:
    class Policy(Base):
        fail_open = False

        async def on_request(self, call: Call, frame: bytes) -> bytes:
            raise ZeroDivisionError("broken")

    async def story(client: Client, runtime: Runtime) -> None:
        runtime.behaviours[method] = echo
        answered = await client.unary(method, b"x", timeout=BOUND)
        assert answered.code is grpc.StatusCode.INTERNAL
        assert "interceptor test failed on" in answered.text

    assert relayed(folder, Policy(), story) == ["test: broken"]


@pytest.mark.parametrize("method", METHODS)
def test_the_end_of_a_cancelled_call_is_told(folder: Path, method: str) -> None:
    interceptor = Base()

    async def story(client: Client, runtime: Runtime) -> None:
        async def hang(context: Context) -> None:
            await asyncio.sleep(BOUND)

        runtime.behaviours[method] = hang
        call = client.open(method)
        await call.write(b"x")
        await call.done_writing()
        await until(lambda: runtime.calls, "arrival")
        call.cancel()
        await until(lambda: interceptor.ends, "the end")

    relayed(folder, interceptor, story)
    assert [code for code, _ in interceptor.ends] == [Code.CANCELLED]


def test_a_response_may_be_refused_in_mid_stream(folder: Path) -> None:
    class Third(Base):
        async def on_response(self, call: Call, frame: bytes) -> bytes:
            if call.response_frames == 3:
                raise RejectedError(Code.ABORTED, "third")
            return frame

    async def story(client: Client, runtime: Runtime) -> None:
        async def endless(context: Context) -> None:
            while True:
                await context.write(b"x")
                await asyncio.sleep(0)

        runtime.behaviours[EVENTS] = endless
        answered = await client.stream(EVENTS, b"")
        assert (answered.code, answered.text, answered.frames) == (grpc.StatusCode.ABORTED, "third", [b"x", b"x"])
        await until(lambda: runtime.cancelled, "the runtime's call is ended")

    relayed(folder, Third(), story)
