"""Mutations on real calls: RunPodSandbox and CreateContainer agree, and the rest of both arrives as it was."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from cri_shim import schema
from cri_shim.schema import RuntimeMessage
from tests.cri.conftest import Line
from tests.cri.recording import CREATE, NEWER, RUN, received
from tests.cri_shim.passing import create, rule, run, sandbox

Play = Callable[..., None]
UPDATE = "/runtime.v1.RuntimeService/UpdateContainerResources"
STATUS, LIST = "/runtime.v1.RuntimeService/PodSandboxStatus", "/runtime.v1.RuntimeService/ListContainers"
SANDBOX, CONTAINER = "5" * 64, "c" * 64
RAN = schema.message("RunPodSandboxResponse")(pod_sandbox_id=SANDBOX).SerializeToString()
MADE = schema.message("CreateContainerResponse")(container_id=CONTAINER).SerializeToString()
CONFIG = (
    'interceptors = ["mutate"]\n'
    + rule(
        "shops",
        "mutate",
        'labels = { team = "shop" }, dns = { servers = ["169.254.20.10"] }, environment = { A = "b" }',
        'match = { namespaces = ["shop"] }',
    )
    + rule("handlers", "mutate", 'runtime_handler = { host = "runc", plain = "kata" }')
    + rule("small", "mutate", 'ceilings = { memory = "1Mi" }', 'match = { containers = ["app"] }')
)


def read(name: str, frame: bytes) -> RuntimeMessage:
    assert frame.endswith(NEWER)
    return schema.message(name).FromString(frame.removesuffix(NEWER))


def test_both_calls_agree_and_kubelet_sees_its_own_answer(play: Play) -> None:
    pod = sandbox({"labels": {"io.kubernetes.pod.name": "web"}})
    changed = sandbox(
        {"labels": {"io.kubernetes.pod.name": "web", "team": "shop"}, "dns_config": {"servers": ["169.254.20.10"]}}
    )

    async def story(line: Line) -> None:
        ran, made = received(line, RUN, RAN), received(line, CREATE, MADE)
        outcome = await line.client.unary(RUN, run(pod).SerializeToString() + NEWER)
        assert (outcome.code, outcome.frames) == (grpc.StatusCode.OK, [RAN])
        assert read("RunPodSandboxRequest", ran[0]) == run(changed, "kata")
        outcome = await line.client.unary(CREATE, create({}, pod).SerializeToString() + NEWER)
        assert (outcome.code, outcome.frames) == (grpc.StatusCode.OK, [MADE])
        got = read("CreateContainerRequest", made[0])
        assert got.sandbox_config == changed
        assert (
            got.config
            == create(
                {"envs": [{"key": "A", "value": b"b"}], "linux": {"resources": {"memory_limit_in_bytes": 1 << 20}}}
            ).config
        )
        assert (await line.shim.logged(CREATE))["rules"] == ["shops", "small"]

    play(story, config=CONFIG)


def test_a_pod_that_no_rule_matches_passes_byte_for_byte(play: Play) -> None:
    metadata = {"name": "proxy", "namespace": "other", "uid": "u"}
    frame = run(sandbox({"metadata": metadata}), "kata").SerializeToString() + NEWER

    async def story(line: Line) -> None:
        ran = received(line, RUN, RAN)
        await line.client.unary(RUN, frame)
        assert ran == [frame]

    play(story, config=CONFIG)


def test_a_resize_of_a_container_the_shim_has_not_seen_is_lowered_too(play: Play) -> None:
    request = schema.message("UpdateContainerResourcesRequest")(
        container_id=CONTAINER, linux={"memory_limit_in_bytes": 1 << 30}
    )
    listed = schema.message("ListContainersResponse")(
        containers=[{"id": CONTAINER, "pod_sandbox_id": SANDBOX, "metadata": {"name": "app"}}]
    )
    status = schema.message("PodSandboxStatusResponse")(
        status={"id": SANDBOX, "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"}}
    )

    async def story(line: Line) -> None:
        received(line, LIST, listed.SerializeToString())
        received(line, STATUS, status.SerializeToString())
        updates = received(line, UPDATE, b"")
        await line.client.unary(UPDATE, request.SerializeToString() + NEWER)
        assert read("UpdateContainerResourcesRequest", updates[0]).linux.memory_limit_in_bytes == 1 << 20

    play(story, config=CONFIG)
