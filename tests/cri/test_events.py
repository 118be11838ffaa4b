"""GetContainerEvents: as the runtime sends them, whole over its restart, and never in its way."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from cri_shim import schema
from cri_shim.events import RING_EVENTS
from tests.cri.conftest import Line
from tests.cri.scripted import BOUND, EVENTS, VERSION, Behaviour, Client, Context, echo, until

Play = Callable[..., None]
SERVICE = "/runtime.v1.RuntimeService"
CREATED, STARTED, STOPPED, DELETED = range(4)
READY, NOTREADY = 0, 1
RUNNING, EXITED = 1, 2


def event(name: str, kind: int, sandbox: str = "pod") -> bytes:
    """An event as containerd would send it."""
    return schema.message("ContainerEventResponse")(
        container_id=name, container_event_type=kind, created_at=1, pod_sandbox_status={"id": sandbox}
    ).SerializeToString()


@dataclass
class Containers:
    """A runtime's containers by state, what it lists of them, and its event stream."""

    sandboxes: dict[str, int] = field(default_factory=lambda: {"pod": READY})
    containers: dict[str, int] = field(default_factory=dict)
    queue: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    subscriptions: int = 0
    initialized: bool = True
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    def behaviours(self) -> dict[str, Behaviour]:
        answers: dict[str, Callable[[Any], dict[str, Any]]] = {
            "ListPodSandbox": lambda _: {"items": list(map(self.sandbox, self.sandboxes))},
            "ListContainers": lambda _: {"containers": list(map(self.container, self.containers))},
            "PodSandboxStatus": lambda asked: {"status": self.sandbox(asked.pod_sandbox_id)},
            "ContainerStatus": lambda asked: {
                "status": {"id": asked.container_id, "state": self.containers[asked.container_id]}
            },
        }
        return {EVENTS: self.subscribe, VERSION: echo} | {
            f"{SERVICE}/{name}": self.answer(f"{SERVICE}/{name}", fields) for name, fields in answers.items()
        }

    def sandbox(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "state": self.sandboxes[name],
            "metadata": {"name": name, "namespace": "default", "uid": "u"},
        }

    def container(self, name: str) -> dict[str, Any]:
        return {"id": name, "pod_sandbox_id": "pod", "state": self.containers[name]}

    def answer(self, path: str, fields: Callable[[Any], dict[str, Any]]) -> Behaviour:
        method = schema.methods()[path]

        async def reply(context: Context) -> None:
            frame = await context.read()
            assert isinstance(frame, bytes)
            if not self.initialized:
                await context.abort(grpc.StatusCode.UNKNOWN, "server is not initialized yet")
            try:
                answer = fields(schema.message(method.request).FromString(frame))
            except KeyError as unknown:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"no such id: {unknown}")
            await context.write(schema.message(method.response)(**answer).SerializeToString())

        return reply

    async def subscribe(self, context: Context) -> None:
        await context.read()
        self.subscriptions += 1
        while True:
            await context.write(await self.queue.get())

    async def flood(self, context: Context) -> None:
        """More events than any window between runtime and client holds."""
        await context.read()
        self.subscriptions += 1
        try:
            while True:
                await context.write(event("c" * 10_000, STARTED))
        finally:
            # By a cancelled task or by a failed write: they race.
            self.let_go.set()

    def install(self, line: Line) -> None:
        line.runtime.behaviours |= self.behaviours()


async def subscribed(line: Line, model: Containers, client: Client | None = None) -> aio.StreamStreamCall[bytes, bytes]:
    """A client's stream, with the runtime's containers known to the shim."""
    last = f"{SERVICE}/ListContainers" if model.initialized else f"{SERVICE}/ListPodSandbox"
    listed = line.runtime.calls.count(last)
    before = model.subscriptions
    stream = (client or line.client).open(EVENTS)
    await stream.write(b"")
    await stream.done_writing()
    await until(lambda: model.subscriptions > before, "the subscription")
    await until(lambda: line.runtime.calls.count(last) > listed, "the first listing")
    # On the same connection behind the listing's answer.
    assert (await line.client.unary(VERSION, b"x")).frames == [b"x"]
    return stream


async def read(stream: aio.StreamStreamCall[bytes, bytes]) -> Any:
    frame = await asyncio.wait_for(stream.read(), BOUND)
    assert isinstance(frame, bytes)
    return schema.message("ContainerEventResponse").FromString(frame)


async def steps(stream: aio.StreamStreamCall[bytes, bytes], count: int) -> list[tuple[str, int]]:
    return [(one.container_id, one.container_event_type) for one in [await read(stream) for _ in range(count)]]


def test_events_pass_as_the_bytes_they_are(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)
        stream = await subscribed(line, model)
        sent = [event("c", CREATED) + b"\xfa\x3e\x03new", b"\xff no message", event("c", STARTED)]
        for frame in sent:
            model.queue.put_nowait(frame)
        assert [await stream.read() for _ in sent] == sent

    play(story)


def test_what_happened_while_the_runtime_was_away_is_told_on_the_same_stream(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers(containers={"stays": RUNNING, "dies": RUNNING, "goes": EXITED})
        model.sandboxes["ends"] = READY
        model.install(line)
        stream = await subscribed(line, model)
        model.queue.put_nowait(event("late", CREATED))
        assert await steps(stream, 1) == [("late", CREATED)]
        await line.runtime.stop(grace=0)
        del model.containers["goes"], model.sandboxes["ends"]
        model.containers |= {"dies": EXITED, "late": RUNNING, "new": EXITED}
        model.initialized = False
        await line.runtime.start()
        await until(lambda: model.subscriptions == 2, "it subscribes again")
        await until(lambda: line.runtime.calls.count(f"{SERVICE}/ListPodSandbox") > 2, "it lists until it is answered")
        model.initialized = True
        missed = [await read(stream) for _ in range(8)]
        assert [(one.container_id, one.container_event_type) for one in missed] == [
            ("new", CREATED),
            *(("late", STARTED), ("new", STARTED)),
            *(("dies", STOPPED), ("ends", STOPPED), ("new", STOPPED)),
            *(("ends", DELETED), ("goes", DELETED)),
        ]
        for one in missed:
            # kubelet ignores an event without a sandbox's metadata.
            assert one.pod_sandbox_status.metadata.name == ("ends" if one.container_id == "ends" else "pod")
        assert {one.id: one.state for one in missed[0].containers_statuses} == model.containers
        assert missed[4].pod_sandbox_status.state == NOTREADY
        assert abs(missed[0].created_at / 1e9 - time.time()) < 60
        model.queue.put_nowait(event("stays", STOPPED))
        assert await steps(stream, 1) == [("stays", STOPPED)]

    play(story)


def test_what_has_been_told_from_the_lists_is_not_told_again_by_the_runtime(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers(containers={"dies": RUNNING})
        model.install(line)
        stream = await subscribed(line, model)
        await line.runtime.stop(grace=0)
        model.containers["dies"] = EXITED
        # As containerd hands what it kept to the first who asks.
        for frame in (event("dies", STOPPED), event("dies", DELETED)):
            model.queue.put_nowait(frame)
        await line.runtime.start()
        assert await steps(stream, 2) == [("dies", STOPPED), ("dies", DELETED)]
        model.queue.put_nowait(event("other", CREATED))
        assert await steps(stream, 1) == [("other", CREATED)]

    play(story)


def test_a_stream_outlives_many_restarts(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)
        stream = await subscribed(line, model)
        for number in range(4):
            await line.runtime.stop(grace=0)
            model.containers[f"c{number}"] = RUNNING
            await line.runtime.start()
            assert await steps(stream, 2) == [(f"c{number}", CREATED), (f"c{number}", STARTED)]
        assert not stream.done()

    play(story)


def test_a_runtime_that_cannot_list_ends_the_stream_with_its_connection(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers(initialized=False)
        model.install(line)
        stream = await subscribed(line, model)
        await line.runtime.stop(grace=0)
        assert await asyncio.wait_for(stream.code(), 5) is grpc.StatusCode.UNAVAILABLE

    play(story)


def test_the_runtimes_own_end_of_the_stream_passes(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)

        async def refuse(context: Context) -> None:
            await context.read()
            await context.write(event("c", CREATED))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now", (("late", "1"),))

        line.runtime.behaviours[EVENTS] = refuse
        answered = await line.client.stream(EVENTS, b"")
        assert (answered.code, answered.text) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")
        assert (answered.frames, answered.trailing) == ([event("c", CREATED)], [("late", "1")])
        assert line.runtime.calls.count(EVENTS) == 1

    play(story)


def test_a_client_that_does_not_read_never_holds_the_runtime_up_and_is_told_why_its_stream_ended(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)
        line.runtime.behaviours[EVENTS] = model.flood
        stream = await subscribed(line, model)
        await asyncio.wait_for(model.let_go.wait(), BOUND)
        assert (await line.client.unary(VERSION, b"x")).frames == [b"x"]
        while isinstance(await taken(stream), bytes):
            pass
        assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"has left {RING_EVENTS} events" in (await stream.details() or "")

    play(story)


def test_a_client_that_never_reads_does_not_hold_up_the_shims_end(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)
        line.runtime.behaviours[EVENTS] = model.flood
        stream = await subscribed(line, model)
        await asyncio.wait_for(model.let_go.wait(), BOUND)
        began = time.monotonic()
        assert await line.shim.exit(signal.SIGTERM) == 0
        assert time.monotonic() - began < 8
        stream.cancel()

    play(story)


async def taken(stream: aio.StreamStreamCall[bytes, bytes]) -> object:
    try:
        return await stream.read()
    except aio.AioRpcError:
        return None


def test_nobody_is_subscribed_for_nobody(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)
        assert (await line.client.unary(VERSION, b"x")).frames == [b"x"]
        stream = await subscribed(line, model)
        stream.cancel()
        await until(lambda: line.runtime.cancelled == [EVENTS], "the runtime's half is ended")
        await line.runtime.stop(grace=0)
        await line.runtime.start()
        while (await line.client.unary(VERSION, b"x")).code is not grpc.StatusCode.OK:
            pass
        assert line.runtime.calls.count(EVENTS) == 1

    play(story)


def test_sixteen_subscribers_have_a_stream_each(play: Play) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)
        clients = [Client(line.shim.listen) for _ in range(16)]
        streams = [await subscribed(line, model, client) for client in clients]
        assert model.subscriptions == 16
        for number in range(16):
            model.queue.put_nowait(event(f"c{number}", CREATED))
        # The model hands an event to one subscriber each.
        assert {(await read(stream)).container_id for stream in streams} == {f"c{number}" for number in range(16)}
        for client in clients:
            await client.channel.close()
        await until(lambda: line.runtime.cancelled.count(EVENTS) == 16, "all of them are ended at the runtime")

    play(story)


@pytest.mark.parametrize("when", ["serving", "away"])
def test_a_stopping_shim_ends_the_stream_at_once(play: Play, when: str, folder: Path) -> None:
    async def story(line: Line) -> None:
        model = Containers()
        model.install(line)
        stream = await subscribed(line, model)
        if when == "away":
            await line.runtime.stop(grace=0)
            await until(
                lambda: [one["connected"] for one in line.shim.events("upstream")][-2:] == [True, False], "loss"
            )
        began = time.monotonic()
        line.shim.process.send_signal(signal.SIGTERM)
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await stream.details() == "podwire-shim is stopping"
        assert await line.shim.exit() == 0
        assert time.monotonic() - began < 5

    play(story)
