"""The upstream comes late, goes and comes back; the shim is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.cri.conftest import Line
from tests.cri.scripted import BOUND, EVENTS, FUTURE, VERSION, Context, echo, severable, shim_process, until

Play = Callable[..., None]
METHODS = [VERSION, EVENTS, FUTURE]


def _names_the_upstream(line: Line, text: str) -> bool:
    return text.startswith(f"podwire-shim: upstream unix://{line.folder}/runtime.sock is not available: ")


@pytest.mark.parametrize("method", METHODS)
def test_without_an_upstream_calls_fail_fast_and_name_it(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        began = time.monotonic()
        answered = await line.client.unary(method, b"x", timeout=BOUND)
        assert answered.code is grpc.StatusCode.UNAVAILABLE
        assert _names_the_upstream(line, answered.text), answered.text
        assert time.monotonic() - began < 3
        assert (await line.shim.logged(method))["ended_by"] == "shim"

    play(story, runtime_up=False)


def test_it_serves_as_soon_as_its_upstream_is_there(play: Play) -> None:
    async def story(line: Line) -> None:
        assert (await line.client.unary(VERSION)).code is grpc.StatusCode.UNAVAILABLE
        line.runtime.behaviours[VERSION] = echo
        await line.runtime.start()
        began = time.monotonic()
        while (await line.client.unary(VERSION, b"x")).code is not grpc.StatusCode.OK:
            assert time.monotonic() - began < 3
        await until(lambda: connected(line), "the connection is logged")

    play(story, runtime_up=False)


def test_it_survives_restarts_of_its_upstream(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        for restart in range(3):
            answered = await line.client.unary(VERSION, b"x")
            assert answered.code is grpc.StatusCode.OK
            await line.runtime.stop()
            await until(lambda: losses(line) > restart, "the loss is noticed")  # noqa: B023 (awaited here)
            away = await line.client.unary(VERSION, b"x")
            assert away.code is grpc.StatusCode.UNAVAILABLE
            assert _names_the_upstream(line, away.text)
            await line.runtime.start()
            began = time.monotonic()
            while (await line.client.unary(VERSION, b"x")).code is not grpc.StatusCode.OK:
                assert time.monotonic() - began < 3, "reconnecting takes too long"

    play(story)


def connected(line: Line) -> bool:
    return [event["connected"] for event in line.shim.events("upstream")][-1:] == [True]


def losses(line: Line) -> int:
    return [event["connected"] for event in line.shim.events("upstream")].count(False)


def test_a_call_is_never_sent_twice(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = lambda context: asyncio.sleep(BOUND)
        asked = asyncio.create_task(line.client.unary(VERSION, b"x"))
        await until(lambda: line.runtime.calls, "the call arrived")
        await line.runtime.stop(grace=0)
        assert (await asked).code is not grpc.StatusCode.OK
        line.runtime.behaviours[FUTURE] = echo
        await line.runtime.start()
        while (await line.client.unary(FUTURE, b"x")).code is not grpc.StatusCode.OK:
            pass
        assert line.runtime.calls.count(VERSION) == 1

    play(story)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("point", ["connected", "request-read", "headers-sent", "frame-sent"])
def test_an_upstream_that_hangs_up_ends_the_call_with_unavailable(play: Play, method: str, point: str) -> None:
    async def story(line: Line) -> None:
        reached = asyncio.Event()

        async def hang(context: Context) -> None:
            if point != "connected":
                await context.read()
            if point in ("headers-sent", "frame-sent"):
                await context.send_initial_metadata((("early", "1"),))
            if point == "frame-sent":
                await context.write(b"one")
            reached.set()
            await asyncio.sleep(BOUND)

        line.runtime.behaviours[method] = hang
        async with severable(line.folder / "runtime.sock", line.runtime.path) as sever:
            await until(lambda: connected(line), "connected through the severable listener")
            asked = asyncio.create_task(line.client.stream(method, b"x", timeout=BOUND))
            await asyncio.wait_for(reached.wait(), BOUND)
            sever()
            answered = await asked
            assert answered.code is grpc.StatusCode.UNAVAILABLE
            assert _names_the_upstream(line, answered.text), answered.text
            assert (await line.shim.logged(method))["ended_by"] == "shim"

    play(story, runtime_name="real.sock")


def test_the_runtimes_own_unavailable_keeps_its_text(play: Play) -> None:
    async def story(line: Line) -> None:
        async def fail(context: Context) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "server is not initialized yet")

        line.runtime.behaviours[VERSION] = fail
        answered = await line.client.unary(VERSION, b"x")
        assert answered.text == "server is not initialized yet"

    play(story)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_drains_and_exits_with_0(play: Play, number: signal.Signals) -> None:
    async def story(line: Line) -> None:
        release = asyncio.Event()

        async def slow(context: Context) -> None:
            await release.wait()
            await echo(context)

        line.runtime.behaviours[VERSION] = slow
        asked = asyncio.create_task(line.client.unary(VERSION, b"x"))
        await until(lambda: line.runtime.calls, "the call is in flight")
        line.shim.process.send_signal(number)
        await until(lambda: line.shim.events("draining"), "draining")
        assert not line.shim.listen.exists()
        assert line.shim.process.poll() is None
        release.set()
        answered = await asked
        assert (answered.code, answered.frames) == (grpc.StatusCode.OK, [b"x"])
        assert await line.shim.exit() == 0
        assert line.shim.events("stopped")[0]["calls_ended"] == 0
        assert sorted(path.name for path in line.folder.iterdir()) == ["runtime.sock", "shim.stderr", "shim.toml"]

    play(story)


def test_event_streams_are_ended_at_once_when_draining(play: Play) -> None:
    async def story(line: Line) -> None:
        async def events(context: Context) -> None:
            await context.write(b"event")
            await asyncio.sleep(BOUND)

        line.runtime.behaviours[EVENTS] = events
        call = line.client.open(EVENTS)
        await call.done_writing()
        assert await call.read() == b"event"
        began = time.monotonic()
        line.shim.process.send_signal(signal.SIGTERM)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await call.details() == "podwire-shim is stopping"
        assert await line.shim.exit() == 0
        assert time.monotonic() - began < 5
        await until(lambda: line.runtime.cancelled == [EVENTS], "the runtime's half is ended")

    play(story)


@pytest.mark.parametrize("method", [VERSION, FUTURE])
def test_calls_longer_than_the_drain_are_ended_with_a_reason(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[method] = lambda context: asyncio.sleep(BOUND)
        asked = asyncio.create_task(line.client.unary(method, b"x"))
        await until(lambda: line.runtime.calls, "the call is in flight")
        assert await line.shim.exit(signal.SIGTERM) == 0
        answered = await asked
        assert answered.code is grpc.StatusCode.UNAVAILABLE
        assert answered.text == "podwire-shim stopped before the call ended (0.2 s to drain)"
        assert line.shim.events("stopped")[0]["calls_ended"] == 1

    play(story, config="drain_seconds = 0.2")


def test_a_second_signal_ends_the_drain(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = lambda context: asyncio.sleep(BOUND)
        asked = asyncio.create_task(line.client.unary(VERSION, b"x"))
        await until(lambda: line.runtime.calls, "the call is in flight")
        line.shim.process.send_signal(signal.SIGTERM)
        await until(lambda: line.shim.events("draining"), "draining")
        assert await line.shim.exit(signal.SIGTERM) == 0
        assert (await asked).code is grpc.StatusCode.UNAVAILABLE

    play(story, config="drain_seconds = 600")


def test_the_socket_is_for_root_and_its_group_only(play: Play) -> None:
    async def story(line: Line) -> None:
        status = line.shim.listen.stat()
        assert stat.S_IMODE(status.st_mode) == 0o660
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        assert not [path for path in line.folder.iterdir() if path.name.startswith(".podwire-shim")]

    play(story)


def test_a_killed_shims_socket_is_taken_over(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        await line.shim.exit(signal.SIGKILL)
        assert line.shim.listen.exists()
        async with shim_process(line.folder, name="second"):
            while (answered := await line.client.unary(VERSION, b"x")).code is not grpc.StatusCode.OK:
                pass
            assert answered.frames == [b"x"]

    play(story)


def test_a_live_instance_keeps_its_socket(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        async with shim_process(line.folder, name="second", wait=False) as second:
            assert await second.exit() == 2
            assert second.trouble == [
                f"podwire-shim: cannot listen on unix://{line.folder}/cri.sock: a live podwire-shim "
                f"(process {line.shim.process.pid}) holds it; stop that one first, take over with --replace, or "
                "choose another path"
            ]
        assert (await line.client.unary(VERSION, b"x")).frames == [b"x"]

    play(story)


@pytest.fixture
def systemd(folder: Path) -> Iterator[socket.socket]:
    """The socket systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify.sock"))
        sock.setblocking(False)
        yield sock


def test_systemd_hears_ready_before_the_upstream_is_there_and_then_its_state(
    play: Play, systemd: socket.socket, folder: Path
) -> None:
    heard: list[str] = []

    def hears(text: str) -> bool:
        try:
            while True:
                heard.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return any(text in message for message in heard)

    upstream = f"unix://{folder}/runtime.sock"

    async def story(line: Line) -> None:
        await until(lambda: hears("READY=1"), "ready")
        assert heard[0] == (f"READY=1\nMAINPID={line.shim.process.pid}\nSTATUS=waiting for the upstream at {upstream}")
        await line.runtime.start()
        await until(lambda: hears(f"STATUS=relaying to {upstream}"), "connected")
        heard.clear()
        await line.runtime.stop()
        await until(lambda: hears(f"STATUS=waiting for the upstream at {upstream}"), "lost")
        await until(lambda: hears("WATCHDOG=1"), "the watchdog is fed")
        assert await line.shim.exit(signal.SIGTERM) == 0
        assert hears("STOPPING=1")

    play(
        story,
        runtime_up=False,
        env={"NOTIFY_SOCKET": str(folder / "notify.sock"), "WATCHDOG_USEC": "200000"},
    )
