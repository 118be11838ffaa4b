"""A runtime that is stopped, killed, deaf or slow, and many clients of whom some are: each hurts its own calls only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import grpc
import pytest

from bench.cri_upstream import SIZES
from tests.cri.conftest import Line
from tests.cri.kubelet import LIST
from tests.cri.scripted import BOUND, FUTURE, ROOT, VERSION, Client, Context, echo, until

Play = Callable[..., None]


@contextlib.contextmanager
def runtime_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A runtime of its own process, to be stopped and killed."""
    process = subprocess.Popen([sys.executable, "-m", "bench.cri_upstream", str(path)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(BOUND)


async def answered(client: Client) -> None:
    """Until the runtime behind the shim answers."""
    deadline = time.monotonic() + BOUND
    while (await client.unary(VERSION, timeout=5)).code is not grpc.StatusCode.OK:
        assert time.monotonic() < deadline, "the runtime does not answer"
        await asyncio.sleep(0.02)


def test_a_stopped_runtime_costs_a_call_its_deadline_and_no_more(play: Play) -> None:
    async def story(line: Line) -> None:
        with runtime_process(line.folder / "runtime.sock") as process:
            await answered(line.client)
            process.send_signal(signal.SIGSTOP)
            patient = asyncio.create_task(line.client.unary(LIST))
            began = time.monotonic()
            assert (await line.client.unary(VERSION, timeout=0.5)).code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - began < 5
            assert not patient.done()
            process.send_signal(signal.SIGCONT)
            # The shim adds no deadline of its own: what was asked without one is answered late.
            assert [len(frame) for frame in (await patient).frames] == [SIZES[LIST]]

    play(story, runtime_up=False)


def test_a_killed_runtime_ends_the_calls_it_had_and_its_successor_gets_the_next(play: Play) -> None:
    async def story(line: Line) -> None:
        path = line.folder / "runtime.sock"
        with runtime_process(path) as process:
            await answered(line.client)
            process.send_signal(signal.SIGSTOP)
            waiting = [asyncio.create_task(line.client.unary(VERSION)) for _ in range(16)]
            assert (await line.client.unary(VERSION, timeout=0.2)).code is grpc.StatusCode.DEADLINE_EXCEEDED
            process.kill()
            assert {(await one).code for one in waiting} == {grpc.StatusCode.UNAVAILABLE}
        path.unlink()
        with runtime_process(path):
            await answered(line.client)

    play(story, runtime_up=False)


@contextlib.asynccontextmanager
async def deaf(path: Path) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Accepts connections and never says a word."""
    accepted: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_unix_server(lambda reader, writer: accepted.append(writer), str(path))
    try:
        yield accepted
    finally:
        listener.close()
        await hang_up(accepted)
        os.unlink(path)


async def hang_up(writers: Iterable[asyncio.StreamWriter]) -> None:
    """Close connections at once, and wait until they are."""
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_a_runtime_that_accepts_and_never_speaks_is_no_runtime(play: Play) -> None:
    async def story(line: Line) -> None:
        async with deaf(line.folder / "runtime.sock") as accepted:
            await until(lambda: accepted, "the shim has connected")
            failed = await line.client.unary(VERSION, timeout=1)
            assert failed.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        line.runtime.behaviours[VERSION] = echo
        await line.runtime.start()
        await answered(line.client)

    play(story, runtime_up=False)


@contextlib.asynccontextmanager
async def slowed(path: Path, behind: Path, block: int, seconds: float) -> AsyncIterator[None]:
    """Listens at `path` and copies to and from `behind`, `block` bytes at most in `seconds`."""
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(block):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(seconds)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(behind))
        writers.extend((writer, inner_writer))
        tasks.add(asyncio.create_task(pump(reader, inner_writer)))
        tasks.add(asyncio.create_task(pump(inner_reader, writer)))

    listener = await asyncio.start_unix_server(accept, str(path))
    try:
        yield
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await hang_up(writers)


@pytest.mark.parametrize("method", [pytest.param(VERSION, id="unary"), pytest.param(FUTURE, id="stream")])
def test_a_message_that_dribbles_in_from_the_runtime_arrives_whole(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[method] = echo
        async with slowed(line.folder / "runtime.sock", line.runtime.path, 1500, 0.001):
            request = bytes(range(256)) * 400
            await until(lambda: [one["connected"] for one in line.shim.events("upstream")][-1:] == [True], "connected")
            sent = await line.client.unary(method, request, timeout=BOUND)
            assert (sent.code, sent.frames) == (grpc.StatusCode.OK, [request])

    play(story, runtime_name="real.sock")


def test_a_client_on_a_slow_line_holds_up_nobody_else(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours |= {VERSION: echo, LIST: echo}
        async with slowed(line.folder / "slow.sock", line.shim.listen, 4096, 0.01):
            slow = Client(line.folder / "slow.sock")
            asked = asyncio.create_task(slow.unary(LIST, bytes(300_000)))
            await until(lambda: LIST in line.runtime.calls, "the slow request has come through")
            began = time.monotonic()
            for _ in range(50):
                assert (await line.client.unary(VERSION, b"x")).frames == [b"x"]
            assert not asked.done() or time.monotonic() - began > 0.3
            assert (await asked).frames == [bytes(300_000)]
            await slow.channel.close()

    play(story)


def test_sixteen_clients_get_their_own_answers_while_one_floods_and_one_leaves(play: Play) -> None:
    async def story(line: Line) -> None:
        ended = asyncio.Event()

        async def flood(context: Context) -> None:
            try:
                while True:
                    await context.write(bytes(1 << 20))
            finally:
                ended.set()

        line.runtime.behaviours |= {VERSION: echo, FUTURE: flood}
        clients = [Client(line.shim.listen) for _ in range(16)]
        # Never read from beyond this frame.
        unread = clients[0].open(FUTURE)
        assert isinstance(await unread.read(), bytes)

        async def ask(number: int) -> None:
            for turn in range(25):
                request = b"%d of %d" % (turn, number)
                assert (await clients[number].unary(VERSION, request, timeout=BOUND)).frames == [request]
            if number % 5 == 4:
                await clients[number].channel.close()

        await asyncio.gather(*map(ask, range(16)))
        for client in clients:
            await client.channel.close()
        await asyncio.wait_for(ended.wait(), BOUND)

    play(story)
