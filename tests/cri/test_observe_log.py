"""One line per call: what it says, what it never says, and where it goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc

from cri_shim import schema
from tests.cri.conftest import Line
from tests.cri.scripted import EVENTS, VERSION, Behaviour, Context, echo, until

Play = Callable[..., None]
RUNTIME = "/runtime.v1.RuntimeService/"
SANDBOX, CONTAINER = "5" * 64, "c" * 64
POD = {"pod_namespace": "kube-system", "pod_name": "dns-1", "pod_uid": "u-1"}


def answering(response: bytes) -> Behaviour:
    async def answer(context: Context) -> None:
        await context.read()
        await context.write(response)

    return answer


def test_a_line_has_method_code_sizes_and_a_timing_that_adds_up(play: Play) -> None:
    async def story(line: Line) -> None:
        async def slow(context: Context) -> None:
            await asyncio.sleep(0.1)
            await echo(context)

        line.runtime.behaviours[VERSION] = slow
        await line.client.unary(VERSION, b"12345")
        logged = await line.shim.logged(VERSION)
        assert list(logged) == [
            "time",
            "event",
            "method",
            "code",
            "ended_by",
            "duration_ms",
            "upstream_ms",
            "shim_ms",
            "request_bytes",
            "response_bytes",
            "request_frames",
            "response_frames",
        ]
        assert (logged["method"], logged["code"], logged["ended_by"]) == (VERSION, "OK", "runtime")
        assert (logged["request_bytes"], logged["response_bytes"]) == (5, 5)
        assert (logged["request_frames"], logged["response_frames"]) == (1, 1)
        assert logged["upstream_ms"] >= 99
        assert logged["shim_ms"] < logged["upstream_ms"]
        assert abs(logged["upstream_ms"] + logged["shim_ms"] - logged["duration_ms"]) < 0.01
        assert datetime.fromisoformat(logged["time"]).utcoffset() is not None

    play(story)


def test_a_stream_counts_its_frames_and_its_time_in_the_runtime(play: Play) -> None:
    async def story(line: Line) -> None:
        async def events(context: Context) -> None:
            for _ in range(3):
                await asyncio.sleep(0.05)
                await context.write(b"1234")

        line.runtime.behaviours[EVENTS] = events
        await line.client.stream(EVENTS, b"")
        logged = await line.shim.logged(EVENTS)
        assert (logged["response_frames"], logged["response_bytes"]) == (3, 12)
        assert logged["upstream_ms"] >= 149

    play(story)


def test_a_pod_is_named_from_its_sandbox_to_the_removal_of_its_container(play: Play) -> None:
    config = {"metadata": {"name": "dns-1", "namespace": "kube-system", "uid": "u-1"}}
    message = schema.message
    created = message("CreateContainerRequest")(pod_sandbox_id=SANDBOX, sandbox_config=config)
    steps: list[tuple[str, schema.RuntimeMessage, dict[str, Any]]] = [
        ("RunPodSandbox", message("RunPodSandboxRequest")(config=config), {"pod_sandbox_id": SANDBOX}),
        ("CreateContainer", created, {"container_id": CONTAINER}),
        ("StartContainer", message("StartContainerRequest")(container_id=CONTAINER), {}),
        ("ExecSync", message("ExecSyncRequest")(container_id=CONTAINER, cmd=["id"]), {"stdout": b"secret"}),
        ("RemoveContainer", message("RemoveContainerRequest")(container_id=CONTAINER), {}),
        ("StopPodSandbox", message("StopPodSandboxRequest")(pod_sandbox_id=SANDBOX), {}),
        ("RemovePodSandbox", message("RemovePodSandboxRequest")(pod_sandbox_id=SANDBOX), {}),
    ]

    async def story(line: Line) -> None:
        for name, request, response in steps:
            line.runtime.behaviours[RUNTIME + name] = answering(
                message(f"{name}Response")(**response).SerializeToString()
            )
            await line.client.unary(RUNTIME + name, request.SerializeToString())
            logged = await line.shim.logged(RUNTIME + name)
            assert {key: logged.get(key) for key in POD} == POD, name
            assert logged["sandbox_id"] == SANDBOX, name
            in_container = name in ("CreateContainer", "StartContainer", "ExecSync", "RemoveContainer")
            assert logged.get("container_id") == (CONTAINER if in_container else None), name
        again = message("StartContainerRequest")(container_id=CONTAINER).SerializeToString()
        await line.client.unary(RUNTIME + "StartContainer", again)
        forgotten = await line.shim.logged(RUNTIME + "StartContainer", 2)
        assert "pod_name" not in forgotten
        assert forgotten["container_id"] == CONTAINER

    play(story)


def test_after_a_restart_a_status_call_teaches_whose_an_id_is(play: Play) -> None:
    labels = {
        "io.kubernetes.pod.name": "dns-1",
        "io.kubernetes.pod.namespace": "kube-system",
        "io.kubernetes.pod.uid": "u-1",
    }
    message = schema.message
    status = message("ContainerStatusResponse")(status={"id": CONTAINER, "labels": labels})

    async def story(line: Line) -> None:
        line.runtime.behaviours[RUNTIME + "ContainerStatus"] = answering(status.SerializeToString())
        line.runtime.behaviours[RUNTIME + "StopContainer"] = answering(b"")
        request = message("ContainerStatusRequest")(container_id=CONTAINER).SerializeToString()
        await line.client.unary(RUNTIME + "ContainerStatus", request)
        await line.client.unary(RUNTIME + "StopContainer", request)
        logged = await line.shim.logged(RUNTIME + "StopContainer")
        assert {key: logged.get(key) for key in POD} == POD

    play(story)


def test_neither_contents_nor_error_texts_nor_secrets_are_logged(play: Play) -> None:
    pull = "/runtime.v1.ImageService/PullImage"
    request = schema.message("PullImageRequest")(
        image={"image": "registry/private"}, auth={"username": "user-u", "password": "hunter2"}
    )

    async def story(line: Line) -> None:
        async def fail(context: Context) -> None:
            await context.abort(grpc.StatusCode.UNKNOWN, "denied for hunter2", (("hint", "hunter2"),))

        line.runtime.behaviours[pull] = fail
        await line.client.unary(pull, request.SerializeToString(), metadata=(("authorization", "hunter2"),))
        assert (await line.shim.logged(pull))["code"] == "UNKNOWN"
        text = (line.folder / "shim.stderr").read_text()
        assert "hunter2" not in text
        assert "user-u" not in text

    play(story)


def test_undecodable_messages_pass_and_are_about_nobody(play: Play) -> None:
    method = RUNTIME + "RunPodSandbox"
    garbage = b"\x0a\xff\xff\xff\xff\xff"

    async def story(line: Line) -> None:
        line.runtime.behaviours[method] = echo
        answered = await line.client.unary(method, garbage)
        assert answered.frames == [garbage]
        assert "pod_name" not in await line.shim.logged(method)
        assert line.shim.events("interceptor-failed") == []

    play(story)


def test_lines_go_to_a_file_that_may_be_rotated(play: Play, folder: Path) -> None:
    log = folder / "calls.log"

    def methods_in(path: Path) -> list[str]:
        if not path.exists():
            return []
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        return [one["method"] for one in lines if one["event"] == "call"]

    async def story(line: Line) -> None:
        await until(lambda: log.exists() and "listening" in log.read_text(), "listening")
        line.runtime.behaviours[VERSION] = echo
        assert (await line.client.unary(VERSION)).code is grpc.StatusCode.OK
        await until(lambda: methods_in(log) == [VERSION], "the first line")
        log.rename(folder / "calls.log.1")
        await line.client.unary(EVENTS)
        await until(lambda: methods_in(log) == [EVENTS], "the line in the new file")
        assert methods_in(folder / "calls.log.1") == [VERSION]

    play(story, config=f'[observe]\nlog = "{log}"', wait=False)


def test_quiet_methods_are_logged_only_when_they_fail(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        await line.client.unary(VERSION)
        del line.runtime.behaviours[VERSION]
        await line.client.unary(VERSION)
        assert (await line.shim.logged(VERSION))["code"] == "UNIMPLEMENTED"
        assert len(line.shim.events("call")) == 1

    play(story, config='[observe]\nquiet_methods = ["Version"]')


def test_without_observe_calls_pass_and_nothing_is_logged_of_them(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        assert (await line.client.unary(VERSION, b"x")).frames == [b"x"]
        await line.shim.exit(15)
        assert line.shim.events("call") == []
        assert line.shim.events("stopped")

    play(story, config="[observe]\nenabled = false")
