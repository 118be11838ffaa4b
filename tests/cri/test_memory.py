"""Hours of kubelet-like traffic with cancelled calls, compressed: the shim's memory stays what it was."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from grpc import aio

from tests.cri.conftest import Line, line
from tests.cri.kubelet import LIST
from tests.cri.scripted import BOUND, EVENTS, Context, echo

EXEC = "/runtime.v1.RuntimeService/ExecSync"
# grpcio's own loss is 800 bytes for a call whose task is cancelled; this is the noise of an allocator.
BYTES_PER_CALL = 250


def private_bytes(process: int) -> int:
    """Memory that is this process's alone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) << 10


async def hour(made: Line, calls: int) -> None:
    """Of each four calls one is answered, one passes its deadline, one is cancelled, one is a stream."""
    room = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with room:
            if number % 4 == 0:
                assert (await made.client.unary(LIST, b"x" * 1000)).frames == [b"x" * 1000]
            elif number % 4 == 1:
                await made.client.unary(EXEC, b"x" * 100, timeout=0.03)
            elif number % 4 == 2:
                ask: aio.UnaryUnaryMultiCallable[bytes, bytes] = made.client.channel.unary_unary(EXEC)
                call = ask(b"x" * 100)
                await asyncio.sleep(0.03)
                call.cancel()
            else:
                stream = made.client.open(EVENTS, timeout=0.03)
                with contextlib.suppress(Exception):
                    await stream.write(b"")
                await stream.code()

    await asyncio.gather(*map(one, range(calls)))


async def growth(folder: Path, calls: int, hours: int) -> float:
    """Bytes by which the shim grew for each call, after two hours that warm it up."""

    async def hang(context: Context) -> None:
        await asyncio.sleep(10 * BOUND)

    async with line(folder, config="[observe]\nenabled = false\n") as made:
        made.runtime.behaviours |= {LIST: echo, EXEC: hang, EVENTS: hang}
        for _ in range(2):
            await hour(made, calls)
        before = private_bytes(made.shim.process.pid)
        for _ in range(hours):
            await hour(made, calls)
        return (private_bytes(made.shim.process.pid) - before) / (hours * calls)


def test_cancelled_calls_leave_no_memory_behind(folder: Path) -> None:
    assert asyncio.run(growth(folder, calls=1000, hours=2)) < BYTES_PER_CALL


@pytest.mark.soak
def test_memory_is_flat_over_a_day_of_traffic(folder: Path) -> None:
    """Of a node's 100,000 calls in an hour some hundreds are cancelled: the probes that time out."""
    assert asyncio.run(growth(folder, calls=2000, hours=24)) < BYTES_PER_CALL
