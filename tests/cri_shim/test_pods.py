"""Whose a call is: found by the schema, learned from answers, bounded."""

from __future__ import annotations

import pytest

from cri_shim import pods, schema
from cri_shim.pods import Pod, Pods, Subject, places

RUNTIME = "/runtime.v1.RuntimeService/"
POD = Subject("ns", "web", "uid-1", "sandbox-1", pod=Pod(runtime_handler=""))


def run_sandbox(memory: Pods, number: int = 1) -> Subject:
    request = schema.message("RunPodSandboxRequest")(
        config={"metadata": {"name": "web", "namespace": "ns", "uid": f"uid-{number}"}}
    )
    response = schema.message("RunPodSandboxResponse")(pod_sandbox_id=f"sandbox-{number}")
    asked = memory.asked(RUNTIME + "RunPodSandbox", request.SerializeToString())
    return memory.answered(RUNTIME + "RunPodSandbox", response.SerializeToString(), asked)


def stop(memory: Pods, sandbox: str) -> Subject:
    request = schema.message("StopPodSandboxRequest")(pod_sandbox_id=sandbox)
    return memory.asked(RUNTIME + "StopPodSandbox", request.SerializeToString())


@pytest.mark.parametrize(
    "name", ["Version", "Status", "ListPodSandbox", "ListContainers", "ListContainerStats", "GetContainerEvents", "New"]
)
def test_methods_about_no_one_pod_are_never_parsed(name: str) -> None:
    assert places(RUNTIME + name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "CreateContainer"),
        *("StartContainer", "StopContainer", "RemoveContainer", "ContainerStatus", "ExecSync", "Exec", "Attach"),
        *("PortForward", "UpdateContainerResources", "ReopenContainerLog", "ContainerStats", "CheckpointContainer"),
        *("PodSandboxStats", "UpdatePodSandboxResources"),
    ],
)
def test_methods_about_one_pod_are_understood(name: str) -> None:
    assert places(RUNTIME + name) is not None


def test_a_pull_names_the_pod_it_is_for() -> None:
    request = schema.message("PullImageRequest")(
        sandbox_config={"metadata": {"name": "web", "namespace": "ns", "uid": "u"}}
    )
    subject = Pods().asked("/runtime.v1.ImageService/PullImage", request.SerializeToString())
    assert subject == Subject("ns", "web", "u", pod=Pod(runtime_handler=""))


def test_an_id_is_remembered_until_it_is_removed() -> None:
    memory = Pods()
    assert run_sandbox(memory) == POD
    assert stop(memory, "sandbox-1") == POD
    memory.removed(RUNTIME + "RemovePodSandbox", POD)
    assert stop(memory, "sandbox-1") == Subject(sandbox_id="sandbox-1")


def test_a_sandbox_status_teaches_after_a_restart() -> None:
    memory = Pods()
    response = schema.message("PodSandboxStatusResponse")(
        status={"id": "sandbox-1", "metadata": {"name": "web", "namespace": "ns", "uid": "uid-1"}}
    )
    unknown = Subject(sandbox_id="sandbox-1")
    assert memory.answered(RUNTIME + "PodSandboxStatus", response.SerializeToString(), unknown) == POD
    assert stop(memory, "sandbox-1") == POD


def test_the_oldest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "REMEMBERED", 3)
    memory = Pods()
    for number in range(5):
        run_sandbox(memory, number)
    assert [stop(memory, f"sandbox-{n}").pod_uid for n in range(5)] == ["", "", "uid-2", "uid-3", "uid-4"]


@pytest.mark.parametrize("frame", [b"\xff\xff", b"\x0a\x05\x0a\x03\x0a\x01\xff"], ids=["garbage", "invalid-utf8"])
def test_what_cannot_be_parsed_is_about_nobody(frame: bytes) -> None:
    memory = Pods()
    assert memory.asked(RUNTIME + "RunPodSandbox", frame) == Subject()
    assert memory.answered(RUNTIME + "RunPodSandbox", frame, POD) == POD
