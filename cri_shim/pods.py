"""Which pod a call is about, learned from the calls themselves.

RunPodSandbox and CreateContainer name the pod and return the ids that later calls carry; after a restart of
the shim the status calls teach it what is running, and whoever must know at once asks the runtime (`find`).
Only messages that name a pod or an id are ever parsed.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from google.protobuf.message import DecodeError

from cri_shim import schema
from cri_shim.call import Code
from cri_shim.errors import AskError
from cri_shim.schema import RuntimeMessage

# More than a node can hold; the oldest is forgotten first.
REMEMBERED = 4096

# Of an annotation's value; static pods carry their whole manifest in one.
VALUE_CHARACTERS = 1024
# For finding out whose an id is, whoever still waits for it.
SEARCH_SECONDS = 10.0
# Key of Call.notes under which `Identify` leaves the call's Subject.
SUBJECT = "subject"

# The labels kubelet puts on every container (k8s.io/kubelet/pkg/types).
POD_NAME, POD_NAMESPACE, POD_UID = (
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.uid",
)
CONTAINER_NAME = "io.kubernetes.container.name"


class Ask(Protocol):
    """A call of the shim's own to the runtime; the response message, or AskError."""

    async def __call__(self, name: str, **fields: object) -> RuntimeMessage: ...


@dataclass(frozen=True, slots=True)
class Pod:
    """What rules match on besides names. Of an annotation's value the first 1024 characters are kept."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    # None while nobody has said; "" is the runtime's default.
    runtime_handler: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of the pod a call is about; "" where nothing is."""

    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    sandbox_id: str = ""
    container_id: str = ""
    container_name: str = ""
    pod: Pod | None = None
    images: tuple[str, ...] = ()

    def names(self) -> dict[str, str]:
        """What identifies it, for a log line; "" where nothing is known."""
        return {name: getattr(self, name) for name in NAMES}


NAMES = (
    "pod_namespace",
    "pod_name",
    "pod_uid",
    "sandbox_id",
    "container_id",
    "container_name",
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where one method's messages name pods and ids, as field names of the request and of the response."""

    request: str
    response: str
    request_configs: tuple[str, ...]
    request_ids: tuple[str, ...]
    response_ids: tuple[str, ...]
    response_status: bool
    image: bool

    @property
    def in_request(self) -> bool:
        """Whether requests say whom they are about."""
        return bool(self.request_configs or self.request_ids or self.image)


@functools.cache
def places(method: str) -> Places | None:
    """Found in the schema, so a method it gains is understood without a change here; None for the others."""
    known = schema.methods().get(method)
    if known is None or not known.unary:
        return None
    request, response = schema.message(known.request), schema.message(known.response)
    found = Places(
        request=known.request,
        response=known.response,
        request_configs=_of_type(request, "PodSandboxConfig"),
        request_ids=_ids(request),
        response_ids=_ids(response),
        response_status=bool(_of_type(response, "PodSandboxStatus") or _of_type(response, "ContainerStatus")),
        image=bool(_of_type(request, "ImageSpec")),
    )
    return found if found.in_request or found.response_ids else None


class Pods:
    """Remembers whose an id is. `ask` is for the ids nobody has named yet."""

    def __init__(self, ask: Ask | None = None) -> None:
        self._ask = ask
        self._sandboxes: dict[str, Subject] = {}
        self._containers: dict[str, Subject] = {}
        self._searches: dict[str, asyncio.Task[Subject]] = {}

    def asked(self, method: str, frame: bytes) -> Subject:
        """Who the request `frame` is about; an undecodable one is about nobody."""
        where = places(method)
        if where is None or not where.in_request:
            return Subject()
        try:
            return self.named_in(method, schema.message(where.request).FromString(frame))
        except DecodeError:
            return Subject()

    def named_in(self, method: str, request: RuntimeMessage) -> Subject:
        """Who a request of this method is about."""
        where = places(method)
        if where is None:
            return Subject()
        ids = {name: getattr(request, name) for name in where.request_ids}
        subject = (
            self._containers.get(ids.get("container_id", ""))
            or self._sandboxes.get(ids.get("pod_sandbox_id", ""))
            or Subject()
        )
        for name in where.request_configs:
            config = getattr(request, name)
            subject = _named(subject, config.metadata)
            if subject.pod is None and config.metadata.name:
                subject = replace(subject, pod=_pod(config, _handler(where, request)))
        if where.request == "CreateContainerRequest":
            subject = replace(
                subject, container_name=request.config.metadata.name, images=_images(request.config.image)
            )
        elif where.image:
            subject = replace(subject, images=_images(request.image))
        return _with_ids(subject, ids)

    def answered(self, method: str, frame: bytes, subject: Subject) -> Subject:
        """What the response adds to `subject`; remembered for the calls to come."""
        where = places(method)
        # A status is worth its parsing once per id.
        if where is None or not (where.response_ids or (where.response_status and not subject.pod_name)):
            return subject
        try:
            response = schema.message(where.response).FromString(frame)
        except DecodeError:
            return subject
        subject = _with_ids(subject, {name: getattr(response, name) for name in where.response_ids})
        if where.response_status and not subject.pod_name:
            status = response.status
            if where.response == "PodSandboxStatusResponse":
                subject = _of_sandbox(subject, status)
            elif POD_NAME in status.labels:
                subject = _labelled(subject, status.labels)
        self._learn(subject)
        return subject

    async def find(self, subject: Subject) -> Subject:
        """`subject` with what the runtime knows of its ids, asked for only where something is missing.

        Two short calls at most, shared by all who wait for one id, and the answer is remembered. An id that the
        runtime does not know adds nothing. AskError when it does not answer; how long to wait is the caller's.
        """
        if self._ask is None or not (subject.container_id or subject.sandbox_id):
            return subject
        known = subject.pod is not None and subject.pod.runtime_handler is not None
        if known and (subject.container_name or not subject.container_id):
            return subject
        key = subject.container_id or subject.sandbox_id
        search = self._searches.get(key)
        if search is None:
            search = self._searches[key] = asyncio.create_task(
                asyncio.wait_for(self._search(self._ask, subject), SEARCH_SECONDS)
            )
            search.add_done_callback(lambda done: self._found(key, done))
        return await asyncio.shield(search)

    def removed(self, method: str, subject: Subject) -> None:
        """The removal succeeded: its id will not be asked for again."""
        if method.endswith("/RemoveContainer"):
            self._containers.pop(subject.container_id, None)
        elif method.endswith("/RemovePodSandbox"):
            self._sandboxes.pop(subject.sandbox_id, None)

    async def _search(self, ask: Ask, subject: Subject) -> Subject:
        container = None
        if subject.container_id:
            # Unlike ContainerStatus, the list names the sandbox.
            listed = await ask("ListContainers", filter={"id": subject.container_id})
            container = next((one for one in listed.containers if one.id == subject.container_id), None)
            if container is None:
                return subject
            subject = _of_container(subject, container)
        known = self._sandboxes.get(subject.sandbox_id)
        if known is not None and known.pod is not None and known.pod.runtime_handler is not None:
            subject = replace(
                known, container_id=subject.container_id, container_name=subject.container_name, images=subject.images
            )
        elif subject.sandbox_id:
            try:
                found = await ask("PodSandboxStatus", pod_sandbox_id=subject.sandbox_id)
            except AskError as error:
                if error.code != Code.NOT_FOUND:
                    raise
            else:
                subject = _of_sandbox(subject, found.status)
                self._learn(replace(subject, container_id="", container_name="", images=()))
        self._learn(subject)
        return subject

    def _found(self, key: str, done: asyncio.Task[Subject]) -> None:
        del self._searches[key]
        if not done.cancelled():
            done.exception()

    def _learn(self, subject: Subject) -> None:
        if not subject.pod_name:
            return
        if subject.container_id:
            _remember(self._containers, subject.container_id, subject)
        elif subject.sandbox_id:
            _remember(self._sandboxes, subject.sandbox_id, subject)


def _remember(memory: dict[str, Subject], key: str, subject: Subject) -> None:
    if key not in memory and len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = subject


def _of_type(message: type[RuntimeMessage], name: str) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in message.DESCRIPTOR.fields
        # By name as well: PodSandboxStatusResponse also holds a list of container statuses.
        if field.name in ("config", "sandbox_config", "status", "image")
        and field.message_type is not None
        and field.message_type.name == name
    )


def _ids(message: type[RuntimeMessage]) -> tuple[str, ...]:
    return tuple(name for name in ("pod_sandbox_id", "container_id") if name in message.DESCRIPTOR.fields_by_name)


def _named(subject: Subject, metadata: RuntimeMessage) -> Subject:
    if not metadata.name:
        return subject
    return replace(subject, pod_namespace=metadata.namespace, pod_name=metadata.name, pod_uid=metadata.uid)


def _labelled(subject: Subject, labels: Mapping[str, str]) -> Subject:
    return replace(
        subject,
        pod_namespace=labels.get(POD_NAMESPACE, ""),
        pod_name=labels.get(POD_NAME, ""),
        pod_uid=labels.get(POD_UID, ""),
        container_name=labels.get(CONTAINER_NAME, ""),
    )


def _of_sandbox(subject: Subject, status: RuntimeMessage) -> Subject:
    if POD_NAME in status.labels:
        labels = status.labels
        subject = replace(
            subject,
            pod_namespace=labels.get(POD_NAMESPACE, ""),
            pod_name=labels[POD_NAME],
            pod_uid=labels.get(POD_UID, ""),
        )
    else:
        subject = _named(subject, status.metadata)
    return replace(subject, pod=_pod(status, status.runtime_handler)) if subject.pod_name else subject


def _of_container(subject: Subject, container: RuntimeMessage) -> Subject:
    if POD_NAME in container.labels:
        subject = _labelled(subject, container.labels)
    return replace(
        subject,
        sandbox_id=container.pod_sandbox_id,
        container_name=container.metadata.name,
        images=_images(container.image),
    )


def _handler(where: Places, request: RuntimeMessage) -> str | None:
    if where.request == "RunPodSandboxRequest":
        return str(request.runtime_handler)
    return str(request.image.runtime_handler) if where.image else None


def _pod(described: RuntimeMessage, runtime_handler: str | None) -> Pod:
    return Pod(
        labels=dict(described.labels),
        annotations={key: value[:VALUE_CHARACTERS] for key, value in described.annotations.items()},
        runtime_handler=runtime_handler,
    )


def _images(spec: RuntimeMessage) -> tuple[str, ...]:
    """An image's names: the one to use, and the one in the pod's manifest where kubelet tells it."""
    return tuple(dict.fromkeys(name for name in (spec.image, spec.user_specified_image) if name))


def _with_ids(subject: Subject, ids: Mapping[str, str]) -> Subject:
    return replace(
        subject,
        sandbox_id=ids.get("pod_sandbox_id") or subject.sandbox_id,
        container_id=ids.get("container_id") or subject.container_id,
    )
