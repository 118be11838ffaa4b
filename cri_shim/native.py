"""What containerd tells beside CRI, on the same socket: health, exits, and running out of memory, as they happen.

kubelet learns of an exit at its next relist, and of memory only from the exit's reason. Another runtime answers
UNIMPLEMENTED, and is left alone.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from cri_shim import schema
from cri_shim.log import Log
from cri_shim.upstream import Upstream

SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
GET_CONTAINER = "/containerd.services.containers.v1.Containers/Get"
HEALTH = "/grpc.health.v1.Health/Check"
# containerd's namespace of what CRI made.
NAMESPACE = "k8s.io"
METADATA = (("containerd-namespace", NAMESPACE),)

OOM, EXIT = "/tasks/oom", "/tasks/exit"
# Annotations that containerd's CRI puts into each specification.
ANNOTATION = "io.kubernetes.cri."

HEALTH_SECONDS = 10.0
ANSWER_SECONDS = 5.0
AGAIN_SECONDS = 1.0
# To a runtime that has no such interface; another one may be in its place some day.
ABSENT_SECONDS = 60.0
# Waiting to be described; containerd itself is never kept waiting.
QUEUED = 1024
SERVING = 1


class Native:
    """Follows the runtime's own interface for as long as it is there."""

    def __init__(self, upstream: Upstream, log: Log) -> None:
        self._upstream = upstream
        self._log = log
        self._serving: bool | None = None
        self._queue: asyncio.Queue[schema.RuntimeMessage] = asyncio.Queue(QUEUED)
        self._lost = 0

    async def watch(self) -> None:
        """Follow events and health for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._describe())
            tasks.create_task(self._check_health())

    async def _follow(self) -> None:
        while True:
            code = await self._subscribe()
            await asyncio.sleep(_pause(code))

    async def _subscribe(self) -> grpc.StatusCode:
        call = self._upstream.stream(SUBSCRIBE)(metadata=METADATA)
        filters = [f'namespace=={NAMESPACE},topic=="{topic}"' for topic in (OOM, EXIT)]
        try:
            await call.write(schema.native("SubscribeRequest")(filters=filters).SerializeToString())
            await call.done_writing()
            while isinstance(frame := await call.read(), bytes):
                self._take(frame)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # its code follows
        except BaseException:
            call.cancel()
            raise
        return await call.code()

    def _take(self, frame: bytes) -> None:
        try:
            self._queue.put_nowait(schema.native("Envelope").FromString(frame))
        except (asyncio.QueueFull, DecodeError):
            self._lost += 1

    async def _describe(self) -> None:
        while True:
            envelope = await self._queue.get()
            if self._lost:
                self._log.event("runtime-events-lost", events=self._lost)
                self._lost = 0
            try:
                await self._tell(envelope)
            except DecodeError:
                self._lost += 1

    async def _tell(self, envelope: schema.RuntimeMessage) -> None:
        when = _stamp(envelope.timestamp)
        if envelope.topic == OOM:
            container = schema.native("TaskOOM").FromString(envelope.event.value).container_id
            self._log.event("out-of-memory", happened=when, **await self._whose(container))
        elif envelope.topic == EXIT:
            ended = schema.native("TaskExit").FromString(envelope.event.value)
            # Otherwise a process that was executed in it has ended, as with each probe.
            if ended.id in ("", ended.container_id):
                whose = await self._whose(ended.container_id)
                self._log.event("exit", happened=_stamp(ended.exited_at) or when, exit_code=ended.exit_status, **whose)

    async def _whose(self, container: str) -> dict[str, str]:
        """Whose container it is, as far as containerd still knows; a sandbox's pause process is one as well."""
        request = schema.native("GetContainerRequest")(id=container).SerializeToString()
        try:
            frame = await self._upstream.unary(GET_CONTAINER)(request, timeout=ANSWER_SECONDS, metadata=METADATA)
            found = schema.native("GetContainerResponse").FromString(frame).container
        except (aio.AioRpcError, DecodeError):
            return {"container_id": container}
        return identity(found)

    async def _check_health(self) -> None:
        request = schema.native("HealthCheckRequest")().SerializeToString()
        while True:
            reason = ""
            try:
                frame = await self._upstream.unary(HEALTH)(request, timeout=ANSWER_SECONDS)
                serving = schema.native("HealthCheckResponse").FromString(frame).status == SERVING
            except aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
                    # No such interface, or nobody there, which the log's lines about the upstream say.
                    await asyncio.sleep(_pause(error.code()))
                    continue
                serving, reason = False, f"{error.code().name}: {error.details()}"
            except DecodeError as error:
                serving, reason = False, str(error)
            if serving is not self._serving:
                self._log.event("runtime-health", serving=serving, reason=reason)
            self._serving = serving
            await asyncio.sleep(HEALTH_SECONDS)


def specification(container: schema.RuntimeMessage) -> dict[str, Any]:
    """The OCI runtime specification of a containerd container; {} when it has none that can be read."""
    try:
        read = json.loads(container.spec.value)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def identity(container: schema.RuntimeMessage) -> dict[str, str]:
    """Whose container it is, in the words of the log; a sandbox's own has no `container_id`."""
    found = specification(container).get("annotations")
    known = found if isinstance(found, dict) else {}
    whose = {
        "pod_namespace": "sandbox-namespace",
        "pod_name": "sandbox-name",
        "pod_uid": "sandbox-uid",
        "sandbox_id": "sandbox-id",
        "container_name": "container-name",
    }
    told = {key: str(known.get(ANNOTATION + name, "")) for key, name in whose.items()}
    if told["sandbox_id"] != container.id:
        told["container_id"] = container.id
    return told


def _pause(code: grpc.StatusCode) -> float:
    return ABSENT_SECONDS if code is grpc.StatusCode.UNIMPLEMENTED else AGAIN_SECONDS


def _stamp(moment: schema.RuntimeMessage) -> str:
    if not moment.seconds:
        return ""
    whole = datetime.fromtimestamp(moment.seconds + moment.nanos / 1e9, UTC)
    return whole.isoformat(timespec="milliseconds").replace("+00:00", "Z")
