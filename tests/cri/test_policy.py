"""Policies on real calls: what is refused never reaches the runtime, what is stripped arrives without a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from cri_shim import schema
from tests.cri.conftest import Line
from tests.cri.recording import CREATE, NEWER, RUN, received
from tests.cri.scripted import until
from tests.cri_shim.passing import create, rule, run, sandbox

Play = Callable[..., None]
CONFIG = 'interceptors = ["policy"]\n' + rule(
    "no-host",
    "policy",
    'privileged = "deny", host_network = "deny", host_pid = "strip", sysctls = "strip"',
    'unless = { namespaces = ["kube-system"] }',
)


def test_a_refused_pod_never_reaches_the_runtime(play: Play) -> None:
    request = run(sandbox(security_context={"privileged": True, "namespace_options": {"network": 2}}))

    async def story(line: Line) -> None:
        frames = received(line, RUN)
        outcome = await line.client.unary(RUN, request.SerializeToString())
        assert outcome.code == grpc.StatusCode.PERMISSION_DENIED
        assert outcome.text == (
            "podwire-shim: pod shop/web: rule no-host does not allow this: a privileged container (set "
            "securityContext.privileged to false); hostNetwork: true (remove hostNetwork)."
        )
        assert frames == []
        logged = await line.shim.logged(RUN)
        assert (logged["ended_by"], logged["rules"]) == ("shim", ["no-host"])

    play(story, config=CONFIG)


def test_what_is_stripped_arrives_without_it_and_with_everything_else(play: Play) -> None:
    asked = sandbox(sysctls={"kernel.msgmax": "1"}, security_context={"namespace_options": {"pid": 2, "ipc": 0}})
    kept = sandbox(sysctls={}, security_context={"namespace_options": {"pid": 1, "ipc": 0}})

    async def story(line: Line) -> None:
        pods = received(line, RUN, schema.message("RunPodSandboxResponse")(pod_sandbox_id="5" * 64).SerializeToString())
        await line.client.unary(RUN, run(asked).SerializeToString())
        assert schema.message("RunPodSandboxRequest").FromString(pods[0]) == run(kept)
        frames = received(line, CREATE)
        asked_frame = create({"args": ["a"]}, asked).SerializeToString() + NEWER
        outcome = await line.client.unary(CREATE, asked_frame)
        assert outcome.code == grpc.StatusCode.OK
        assert frames[0].endswith(NEWER)
        assert schema.message("CreateContainerRequest").FromString(frames[0].removesuffix(NEWER)) == create(
            {"args": ["a"]}, kept
        )
        await until(lambda: len(line.shim.events("stripped")) == 2, "two events")
        for event in line.shim.events("stripped"):
            assert event["what"] == ["hostPID: true", "sysctl kernel.msgmax"]
            assert (event["pod_namespace"], event["pod_name"]) == ("shop", "web")

    play(story, config=CONFIG)


def test_a_pod_of_another_namespace_passes_byte_for_byte(play: Play) -> None:
    metadata = {"name": "proxy", "namespace": "kube-system", "uid": "u"}
    frame = run(sandbox({"metadata": metadata}, security_context={"privileged": True})).SerializeToString() + NEWER

    async def story(line: Line) -> None:
        frames = received(line, RUN)
        outcomes = await asyncio.gather(*(line.client.unary(RUN, frame) for _ in range(8)))
        assert {one.code for one in outcomes} == {grpc.StatusCode.OK}
        assert frames == [frame] * 8

    play(story, config=CONFIG)


def test_a_request_that_cannot_be_read_is_refused(play: Play) -> None:
    async def story(line: Line) -> None:
        frames = received(line, RUN)
        outcome = await line.client.unary(RUN, b"\x0a\x03\x12\x01\xff")
        assert outcome.code == grpc.StatusCode.INTERNAL
        assert "rule no-host of policy failed on RunPodSandbox and fails closed" in outcome.text
        assert frames == []

    play(story, config=CONFIG)
