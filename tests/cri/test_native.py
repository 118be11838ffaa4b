"""containerd's own interface, as a scripted runtime speaks it or does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import grpc

from cri_shim import native, schema
from tests.cri.conftest import Line
from tests.cri.scripted import VERSION, Context, echo, until


def envelope(topic: str, event: bytes) -> bytes:
    made = schema.native("Envelope")(topic=topic, event={"value": event}, timestamp={"seconds": 1_700_000_000})
    return made.SerializeToString()


def exit_of(container: str, process: str = "") -> bytes:
    return schema.native("TaskExit")(container_id=container, id=process or container, exit_status=3).SerializeToString()


def publishing(line: Line, *frames: bytes) -> None:
    async def subscribe(context: Context) -> None:
        assert dict(context.invocation_metadata() or ())["containerd-namespace"] == "k8s.io"
        await context.read()
        for frame in frames:
            await context.write(frame)
        await asyncio.Event().wait()

    line.runtime.behaviours[native.SUBSCRIBE] = subscribe


def test_a_runtime_without_it_is_neither_harmed_nor_spoken_of(play: Callable[..., None]) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        assert (await line.client.unary(VERSION)).code is grpc.StatusCode.OK
        await line.shim.exit(15)
        events = {each["event"] for each in line.shim.log}
        assert not events & {"runtime-health", "exit", "out-of-memory", "runtime-events-lost"}

    play(story)


def test_an_exit_of_a_container_is_told_and_that_of_a_probe_in_it_is_not(play: Callable[..., None]) -> None:
    annotations = {"io.kubernetes.cri.sandbox-id": "s", "io.kubernetes.cri.sandbox-name": "web"}

    async def story(line: Line) -> None:
        async def get(context: Context) -> None:
            request = schema.native("GetContainerRequest").FromString(await context.read() or b"")
            spec = {"value": json.dumps({"annotations": annotations}).encode()}
            made = schema.native("GetContainerResponse")(container={"id": request.id, "spec": spec})
            await context.write(made.SerializeToString())

        line.runtime.behaviours[native.GET_CONTAINER] = get
        publishing(
            line,
            envelope(native.EXIT, exit_of("c", "probe")),
            b"\xff",
            envelope("/tasks/new", b"\xff"),
            envelope(native.EXIT, exit_of("s")),
            envelope(native.EXIT, exit_of("c")),
        )
        await line.runtime.stop()
        await line.runtime.start()
        await until(lambda: len(line.shim.events("exit")) == 2, "two exits in the log", 30)
        sandbox, container = line.shim.events("exit")
        assert (sandbox["sandbox_id"], sandbox.get("container_id")) == ("s", None)
        assert (container["sandbox_id"], container["container_id"], container["pod_name"]) == ("s", "c", "web")
        assert container["happened"] == "2023-11-14T22:13:20.000Z"
        assert [each["events"] for each in line.shim.events("runtime-events-lost")] == [1]

    play(story, runtime_up=False)


def test_the_subscription_is_renewed_when_the_runtime_comes_back(play: Callable[..., None]) -> None:
    async def story(line: Line) -> None:
        publishing(line, envelope(native.OOM, schema.native("TaskOOM")(container_id="first").SerializeToString()))
        await line.runtime.start()
        await until(lambda: len(line.shim.events("out-of-memory")) == 1, "the first", 30)
        await line.runtime.stop(grace=0)
        publishing(line, envelope(native.OOM, schema.native("TaskOOM")(container_id="second").SerializeToString()))
        await line.runtime.start()
        await until(lambda: len(line.shim.events("out-of-memory")) == 2, "the second", 30)
        assert [each["container_id"] for each in line.shim.events("out-of-memory")] == ["first", "second"]

    play(story, runtime_up=False)


def test_health_is_told_when_it_changes(play: Callable[..., None]) -> None:
    async def story(line: Line) -> None:
        async def check(context: Context) -> None:
            await context.write(schema.native("HealthCheckResponse")(status=2).SerializeToString())

        line.runtime.behaviours[native.HEALTH] = check
        await line.runtime.start()
        await until(lambda: line.shim.events("runtime-health"), "a line of health", 30)
        assert [each["serving"] for each in line.shim.events("runtime-health")] == [False]

    play(story, runtime_up=False)
