"""A runtime of words only, for the tests of the suite: pods and containers are entries of a table, nothing runs.

It is right about what it answers, unless it is told faults; FAULTS says which case each of them must fail.
"""

import itertools
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cri_shim import schema
from cri_shim.schema import Method, RuntimeMessage
from tests.conformance.cri.client import METHODS
from tests.conformance.cri.served import Served
from tests.cri.scripted import Behaviour, Context
from tests.lab import images

# Fault -> the case that must fail by it, and a word of the reason.
FAULTS = {
    "old version": (1, "0.0.9"),
    "network not ready": (2, "False is True"),
    "forgets annotations": (7, "assert {} =="),
    "milliseconds": (10, "10 ** 9"),
    "stops once": (11, "stopped already"),
    "refuses to remove the unknown": (14, "RemovePodSandbox"),
    "takes a name twice": (16, "RunPodSandbox was not refused"),
    "loses exit codes": (26, "(0, 'Error') == (42, 'Error')"),
    "removes a container once": (31, "RemoveContainer"),
    "starts twice": (34, "StartContainer was not refused"),
    "finds absent images": (125, "not True"),
    "pulls nothing": (129, "PullImage was not refused"),
    "unknown pod is no NOT_FOUND": (141, "failed precondition"),
    "takes any pod": (142, "CreateContainer was not refused"),
    "ignores pod filters": (149, "assert {'0000"),
    "has no ListContainers": (150, "UNIMPLEMENTED"),
}
READY, NOTREADY = 0, 1
CREATED, RUNNING, EXITED = 0, 1, 2


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass
class Entry:
    """A pod or a container: its status, and what it was asked to be."""

    status: RuntimeMessage
    config: RuntimeMessage
    pod: str = ""


class MiniRuntime(Served):
    """The runtime, with these faults."""

    def __init__(self, path: Path, faults: AbstractSet[str] = frozenset()) -> None:
        self._faults = faults
        self._numbers = itertools.count(1)
        self._pods: dict[str, Entry] = {}
        self._containers: dict[str, Entry] = {}
        self._images = [images.PAUSE, images.TOOLS, images.PERSON, images.SPARE]
        super().__init__(path, {METHODS[name].path: self._behaviour(name) for name in self._handlers()})

    def _behaviour(self, name: str) -> Behaviour:
        method: Method = METHODS[name]
        handler = getattr(self, name)

        async def behave(context: Context) -> None:
            frame = await context.read()
            assert isinstance(frame, bytes)
            try:
                fields = handler(schema.message(method.request).FromString(frame))
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.text)
            await context.write(schema.message(method.response)(**(fields or {})).SerializeToString())

        return behave

    def _handlers(self) -> list[str]:
        absent = {"ListContainers"} if "has no ListContainers" in self._faults else set()
        absent |= {"RuntimeConfig"} if "has no RuntimeConfig" in self._faults else set()
        return [name for name in METHODS if hasattr(self, name) and name not in absent]

    def _find(self, table: dict[str, Entry], identity: str) -> Entry:
        if identity not in table:
            wrong = "unknown pod is no NOT_FOUND" in self._faults and table is self._pods
            code = "FAILED_PRECONDITION" if wrong else "NOT_FOUND"
            raise Refusal(grpc.StatusCode[code], f"{identity}: not found")
        return table[identity]

    def _made(self) -> dict[str, Any]:
        now = time.time_ns()
        # 64 hexadecimal digits, as all runtimes have them.
        return {
            "id": f"{next(self._numbers):064x}",
            "created_at": now // 10**6 if "milliseconds" in self._faults else now,
        }

    def Version(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802 (the RPC's name, as of all below)
        version = "0.0.9" if "old version" in self._faults else "0.1.0"
        return {"version": version, "runtime_name": "mini", "runtime_version": "1.0", "runtime_api_version": "v1"}

    def Status(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        network = "network not ready" not in self._faults
        told = [{"type": "RuntimeReady", "status": True}, {"type": "NetworkReady", "status": network}]
        return {"status": {"conditions": told}}

    def RuntimeConfig(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        return {"linux": {"cgroup_driver": 1}}

    def RunPodSandbox(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        config = request.config
        same = [each for each in self._pods.values() if each.config.metadata == config.metadata]
        if same and "takes a name twice" not in self._faults:
            other = " as another" if "words it otherwise" in self._faults else ""
            raise Refusal(
                grpc.StatusCode.UNKNOWN, f"name {config.metadata.name} is reserved for {same[0].status.id}{other}"
            )
        status = schema.message("PodSandboxStatus")(
            **self._made(), metadata=config.metadata, labels=config.labels, annotations=config.annotations
        )
        if "forgets annotations" in self._faults:
            status.annotations.clear()
        self._pods[status.id] = Entry(status, config)
        return {"pod_sandbox_id": status.id}

    def PodSandboxStatus(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        return {"status": self._find(self._pods, request.pod_sandbox_id).status}

    def StopPodSandbox(self, request: RuntimeMessage) -> None:  # noqa: N802
        pod = self._find(self._pods, request.pod_sandbox_id)
        if pod.status.state == NOTREADY and "stops once" in self._faults:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "stopped already")
        pod.status.state = NOTREADY
        for each in self._containers.values():
            if each.pod == request.pod_sandbox_id and each.status.state == RUNNING:
                self._end(each, 137)

    def RemovePodSandbox(self, request: RuntimeMessage) -> None:  # noqa: N802
        if "refuses to remove the unknown" in self._faults:
            self._find(self._pods, request.pod_sandbox_id)
        self._pods.pop(request.pod_sandbox_id, None)
        left = {key: each for key, each in self._containers.items() if each.pod != request.pod_sandbox_id}
        self._containers = left

    def ListPodSandbox(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        kept = [each.status for each in self._pods.values() if self._chosen(each, request.filter)]
        names = ("id", "metadata", "state", "created_at", "labels", "annotations")
        return {"items": [{name: getattr(each, name) for name in names} for each in kept]}

    def _chosen(self, entry: Entry, wanted: RuntimeMessage) -> bool:
        if not entry.pod and "ignores pod filters" in self._faults and not wanted.id:
            return True
        return (
            wanted.id in {"", entry.status.id}
            and (not wanted.HasField("state") or wanted.state.state == entry.status.state)
            and all(entry.status.labels.get(key) == value for key, value in wanted.label_selector.items())
            and getattr(wanted, "pod_sandbox_id", "") in {"", entry.pod}
        )

    def CreateContainer(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        config = request.config
        if "takes any pod" not in self._faults:
            self._find(self._pods, request.pod_sandbox_id)
        status = schema.message("ContainerStatus")(
            **self._made(), metadata=config.metadata, labels=config.labels, annotations=config.annotations
        )
        self._containers[status.id] = Entry(status, config, request.pod_sandbox_id)
        return {"container_id": status.id}

    def StartContainer(self, request: RuntimeMessage) -> None:  # noqa: N802
        entry = self._find(self._containers, request.container_id)
        if entry.status.state != CREATED and "starts twice" not in self._faults:
            raise Refusal(grpc.StatusCode.UNKNOWN, f"container {request.container_id} was started before")
        entry.status.state, entry.status.started_at = RUNNING, time.time_ns()
        word, _, number = entry.config.command[-1].partition(" ")
        if word == "exit":
            self._end(entry, int(number))

    def _end(self, entry: Entry, code: int) -> None:
        entry.status.state, entry.status.finished_at = EXITED, time.time_ns()
        entry.status.exit_code = 0 if "loses exit codes" in self._faults else code
        entry.status.reason = "Error" if code else "Completed"

    def StopContainer(self, request: RuntimeMessage) -> None:  # noqa: N802
        entry = self._find(self._containers, request.container_id)
        if entry.status.state == RUNNING:
            self._end(entry, 137)

    def RemoveContainer(self, request: RuntimeMessage) -> None:  # noqa: N802
        if "removes a container once" in self._faults:
            self._find(self._containers, request.container_id)
        self._containers.pop(request.container_id, None)

    def ContainerStatus(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        return {"status": self._find(self._containers, request.container_id).status}

    def ListContainers(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        kept = [each for each in self._containers.values() if self._chosen(each, request.filter)]
        return {"containers": [{"id": each.status.id, "pod_sandbox_id": each.pod} for each in kept]}

    def ListImages(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        return {"images": [{"id": f"sha256:{name}", "repo_tags": [name], "size": 1} for name in self._images]}

    def ImageStatus(self, request: RuntimeMessage) -> dict[str, Any] | None:  # noqa: N802
        name = request.image.image
        if name not in self._images and "finds absent images" not in self._faults:
            return None
        return {"image": {"id": f"sha256:{name}", "repo_tags": [name], "size": 1}}

    def PullImage(self, request: RuntimeMessage) -> dict[str, Any]:  # noqa: N802
        if "pulls nothing" in self._faults:
            return {"image_ref": request.image.image}
        raise Refusal(grpc.StatusCode.UNKNOWN, f"cannot pull {request.image.image}: connection refused")
