"""One instance follows another, and a client with kubelet's habits notices nothing but one end of its events."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.cri.conftest import Line
from tests.cri.kubelet import IMAGES, LIST, STATUS, kubelet
from tests.cri.scripted import BOUND, EVENTS, PULL, VERSION, Client, Context, Shim, echo, shim_process, until

Play = Callable[..., None]
SOON = "[handover]\nconnection_seconds = 0.3\n"
HANDOVERS = 5
REPLACE = ("--replace",)


async def subscribed(context: Context) -> None:
    """Events begin with one, and do not end."""
    await context.read()
    await context.write(b"event")
    await asyncio.sleep(10 * BOUND)


async def slow(context: Context) -> None:
    """A pull that lasts longer than its connection."""
    request = await context.read()
    await asyncio.sleep(0.7)
    assert isinstance(request, bytes)
    await context.write(request)


def test_no_call_fails_and_events_end_once_in_each_of_five_handovers_under_load(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours |= {STATUS: echo, LIST: echo, IMAGES: echo, PULL: slow, EVENTS: subscribed}
        async with contextlib.AsyncExitStack() as successors, kubelet(line.shim.listen) as tally:
            serving = line.shim
            await until(lambda: tally.subscribed == 1, "the first subscription")
            for number in range(1, HANDOVERS + 1):
                before = tally.answered
                successor = await successors.enter_async_context(
                    shim_process(line.folder, config=SOON, name=f"successor-{number}", arguments=REPLACE)
                )
                assert await serving.exit() == 0
                await until(lambda: tally.subscribed > number, "the next subscription")  # noqa: B023 (awaited here)
                assert len(tally.stream_ends) == number
                assert serving.events("stopped")[0]["calls_ended"] == 0
                assert [one["replaces"] for one in successor.events("listening")] == [str(serving.process.pid)]
                assert tally.answered > before + 50
                serving = successor
            assert tally.failures == []
            assert serving.trouble == []

    play(story, config=SOON)


def test_the_predecessor_leaves_the_path_to_its_successor_and_nothing_else_behind(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        async with shim_process(line.folder, config=SOON, name="second", arguments=REPLACE) as second:
            assert await line.shim.exit() == 0
            assert (await fresh(line, b"x")) == [b"x"]
            names = {path.name for path in line.folder.iterdir() if path.suffix not in (".toml", ".stderr")}
            assert names == {"runtime.sock", "cri.sock", "cri.sock.lock"}
            assert await second.exit(signal.SIGTERM) == 0
            assert not line.shim.listen.exists()

    play(story, config=SOON)


def test_a_call_without_a_deadline_ends_in_the_predecessor_long_after_the_handover(play: Play) -> None:
    async def story(line: Line) -> None:
        release = asyncio.Event()

        async def pull(context: Context) -> None:
            await release.wait()
            await echo(context)

        line.runtime.behaviours[PULL] = pull
        pulling = asyncio.create_task(line.client.unary(PULL, b"image"))
        await until(lambda: line.runtime.calls == [PULL], "the pull is in flight")
        async with shim_process(line.folder, name="second", arguments=REPLACE):
            await until(lambda: line.shim.events("draining"), "the predecessor drains")
            assert line.shim.events("draining")[0]["seconds"] == 900
            assert line.shim.process.poll() is None
            release.set()
            assert (await pulling).frames == [b"image"]
            assert await line.shim.exit() == 0

    # What SIGTERM would give it is no bound here.
    play(story, config="drain_seconds = 0\n" + SOON)


def test_what_outlasts_the_handovers_own_bound_is_ended_with_a_reason(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[PULL] = lambda context: asyncio.sleep(BOUND)
        pulling = asyncio.create_task(line.client.unary(PULL, b"image"))
        await until(lambda: line.runtime.calls == [PULL], "the pull is in flight")
        async with shim_process(line.folder, name="second", arguments=REPLACE):
            answered = await pulling
            assert answered.code is grpc.StatusCode.UNAVAILABLE
            assert answered.text == "podwire-shim stopped before the call ended (0.1 s to drain)"
            assert await line.shim.exit() == 0

    play(story, config=SOON + "drain_seconds = 0.1\n")


def test_a_signal_ends_the_wait_for_clients_of_a_predecessor(play: Play) -> None:
    async def story(line: Line) -> None:
        async with shim_process(line.folder, name="second", arguments=REPLACE):
            await until(lambda: line.shim.events("replaced"), "the hand-over is noticed")
            assert await line.shim.exit(signal.SIGTERM) == 0

    play(story, config="[handover]\nconnection_seconds = 600\n")


@pytest.mark.parametrize(
    ("config", "arguments", "says"),
    [
        pytest.param("lisen = 1", REPLACE, "unknown key 'lisen'", id="configuration"),
        pytest.param("", (*REPLACE, "--upstream", "unix:///no/such.sock"), "did not answer within 5 s", id="upstream"),
    ],
)
def test_a_successor_that_cannot_serve_changes_nothing(
    play: Play, config: str, arguments: tuple[str, ...], says: str
) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        async with shim_process(line.folder, name="second", wait=False, config=config, arguments=arguments) as second:
            assert await second.exit() == 2
            assert says in second.trouble[0]
        assert (await fresh(line, b"x")) == [b"x"]
        assert line.shim.events("replaced") == []
        names = {path.name for path in line.folder.iterdir() if path.suffix not in (".toml", ".stderr")}
        assert names == {"runtime.sock", "cri.sock", "cri.sock.lock"}

    play(story)


def test_of_two_successors_at_once_one_wins_and_the_other_says_why(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        # Stopped, the upstream lets neither of them get further than to wait for it.
        await line.runtime.stop(grace=0)
        async with shim_process(line.folder, name="one", wait=False, arguments=REPLACE) as one:
            await until((line.folder / "cri.sock.turn").exists, "the first has its turn")
            async with shim_process(line.folder, name="two", wait=False, arguments=REPLACE) as two:
                assert await two.exit() == 2
                assert f"another podwire-shim (process {one.process.pid}) is just starting there" in two.trouble[0]
            await line.runtime.start()
            await until(lambda: one.events("listening"), "the first has taken over")
            assert (await fresh(line, b"x")) == [b"x"]

    play(story)


async def fresh(line: Line, request: bytes) -> list[bytes]:
    """What a client that connects now gets for a Version call."""
    client = Client(line.shim.listen)
    try:
        return (await client.unary(VERSION, request, timeout=BOUND)).frames
    finally:
        await client.channel.close()


@pytest.fixture
def systemd(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """What systemd has heard so far."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify.sock"))
        sock.setblocking(False)

        def hear() -> list[str]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.append(sock.recv(4096).decode())
            return heard

        yield hear


def test_systemd_hears_of_the_new_main_process_and_never_that_the_service_stops(
    play: Play, systemd: Callable[[], list[str]], folder: Path
) -> None:
    env = {"NOTIFY_SOCKET": str(folder / "notify.sock"), "WATCHDOG_USEC": "200000"}

    async def story(line: Line) -> None:
        await until(lambda: "WATCHDOG=1" in systemd(), "the watchdog is fed")
        async with shim_process(line.folder, config=SOON, name="second", arguments=REPLACE, env=env) as second:
            assert await line.shim.exit() == 0
            mains = [one for one in systemd() if "MAINPID" in one]
            assert [
                f"MAINPID={shim.process.pid}" in main for shim, main in zip((line.shim, second), mains, strict=True)
            ]
            assert not any("STOPPING" in one for one in systemd())

    play(story, config=SOON, env=env)


def test_the_watchdog_is_not_fed_when_clients_cannot_reach_the_socket(
    play: Play, systemd: Callable[[], list[str]], folder: Path
) -> None:
    async def story(line: Line) -> None:
        await until(lambda: "WATCHDOG=1" in systemd(), "the watchdog is fed")
        line.shim.listen.rename(line.folder / "moved.sock")
        await until(lambda: line.shim.events("not-serving"), "it notices")
        fed = systemd().count("WATCHDOG=1")
        await until(lambda: len(line.shim.events("not-serving")) > 3, "it goes on noticing")
        assert systemd().count("WATCHDOG=1") <= fed + 1
        (line.folder / "moved.sock").rename(line.shim.listen)
        fed = systemd().count("WATCHDOG=1")
        await until(lambda: systemd().count("WATCHDOG=1") > fed, "it is fed again")

    play(story, env={"NOTIFY_SOCKET": str(folder / "notify.sock"), "WATCHDOG_USEC": "200000"})


def test_detached_it_returns_when_it_serves(folder: Path) -> None:
    async def whole() -> None:
        async with (
            asyncio.timeout(60),
            shim_process(folder, name="launcher", wait=False, arguments=("--detach",)) as one,
        ):
            assert await one.exit() == 0
            await until(lambda: one.events("listening"), "it says that it listens")
            process = int((folder / "cri.sock.lock").read_text())
            assert process != one.process.pid
            await gone(one, process)

    asyncio.run(whole())


def test_detached_it_returns_with_2_when_it_cannot_serve(folder: Path) -> None:
    async def whole() -> None:
        arguments = ("--detach", "--listen", "unix:///no/where/cri.sock")
        async with asyncio.timeout(60), shim_process(folder, name="launcher", wait=False, arguments=arguments) as one:
            assert await one.exit() == 2
            assert "folder /no/where" in one.trouble[0]

    asyncio.run(whole())


async def gone(shim: Shim, process: int) -> None:
    """End a detached instance and wait for its last word; who reaps it is not us."""
    stopped = len(shim.events("stopped"))
    os.kill(process, signal.SIGTERM)
    await until(lambda: len(shim.events("stopped")) > stopped and not shim.listen.exists(), "it has stopped")


def test_above_its_memory_limit_it_hands_over_to_a_fresh_process_by_itself(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[PULL] = echo

        async def hold(context: Context) -> None:
            request = await context.read()
            await asyncio.sleep(10 * BOUND)
            assert request

        line.runtime.behaviours[VERSION] = hold
        held = [asyncio.create_task(line.client.unary(VERSION, b"x" * (30 << 20))) for _ in range(3)]
        await until(lambda: line.runtime.calls.count(VERSION) == 3, "the shim holds three large requests")
        await until(lambda: line.shim.events("memory-limit"), "it notices")
        await until(lambda: len(line.shim.events("listening")) == 2, "its successor serves")
        assert await line.shim.exit() == 0
        assert {(await one).code for one in held} == {grpc.StatusCode.UNAVAILABLE}
        assert line.shim.events("handover-failed") == []
        assert line.shim.listen.exists()
        await gone(line.shim, int((line.folder / "cri.sock.lock").read_text()))

    play(story, config=SOON + "drain_seconds = 0.1\nmemory_mb = 100\nmemory_seconds = 0.2\n")
