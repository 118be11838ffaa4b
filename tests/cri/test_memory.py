"""Hours of kubelet-like traffic with cancelled calls, compressed: the shim's memory stays what it was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from grpc import aio

from tests.cri.conftest import Line
from tests.cri.kubelet import LIST, STATUS
from tests.cri.scripted import BOUND, EVENTS, VERSION, Context, echo

Play = Callable[..., None]
EXEC = "/runtime.v1.RuntimeService/ExecSync"
# grpcio's own loss is 800 bytes for a call whose task is cancelled; this is the noise of an allocator.
BYTES_PER_CALL = 250


def private_bytes(process: int) -> int:
    """Memory that is this process's alone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) << 10


async def hour(line: Line, calls: int) -> None:
    """Of each four calls one is answered, one passes its deadline, one is cancelled, one is a stream."""
    room = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with room:
            if number % 4 == 0:
                assert (await line.client.unary(LIST, b"x" * 1000)).frames == [b"x" * 1000]
            elif number % 4 == 1:
                await line.client.unary(EXEC, b"x" * 100, timeout=0.03)
            elif number % 4 == 2:
                ask: aio.UnaryUnaryMultiCallable[bytes, bytes] = line.client.channel.unary_unary(EXEC)
                call = ask(b"x" * 100)
                await asyncio.sleep(0.03)
                call.cancel()
            else:
                stream = line.client.open(EVENTS, timeout=0.03)
                with contextlib.suppress(Exception):
                    await stream.write(b"")
                await stream.code()

    await asyncio.gather(*map(one, range(calls)))


def growth(play: Play, calls: int, hours: int) -> float:
    """Bytes by which the shim grew for each call, after two hours that warm it up."""
    grown = 0.0

    async def story(line: Line) -> None:
        nonlocal grown

        async def hang(context: Context) -> None:
            await asyncio.sleep(10 * BOUND)

        line.runtime.behaviours |= {LIST: echo, STATUS: echo, EXEC: hang, EVENTS: hang, VERSION: echo}
        for _ in range(2):
            await hour(line, calls)
        before = private_bytes(line.shim.process.pid)
        for _ in range(hours):
            await hour(line, calls)
        grown = (private_bytes(line.shim.process.pid) - before) / (hours * calls)

    play(story, config="[observe]\nenabled = false\n")
    return grown


def test_cancelled_calls_leave_no_memory_behind(play: Play) -> None:
    assert growth(play, calls=1000, hours=2) < BYTES_PER_CALL


@pytest.mark.soak
def test_memory_is_flat_over_a_day_of_traffic(play: Play) -> None:
    """A node makes about 100,000 calls in an hour; those that are cancelled are the probes that time out."""
    assert growth(play, calls=2000, hours=12) < BYTES_PER_CALL
