"""Which pod a call is about, learned from the calls themselves.

RunPodSandbox and CreateContainer name the pod and return the ids that later calls carry; after a restart of
the shim the status calls teach it what is running. Only messages that name a pod or an id are ever parsed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from cri_shim import schema

# More than a node can hold; the oldest is forgotten first.
REMEMBERED = 4096

# The labels kubelet puts on every container (k8s.io/kubelet/pkg/types).
POD_NAME, POD_NAMESPACE, POD_UID = (
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.uid",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of the pod a call is about; "" where nothing is."""

    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    sandbox_id: str = ""
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Where one method's messages name pods and ids, as field names of the request and of the response."""

    request: str
    response: str
    request_configs: tuple[str, ...]
    request_ids: tuple[str, ...]
    response_ids: tuple[str, ...]
    response_status: bool


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
    )
    return found if found.request_configs or found.request_ids or found.response_ids else None


class Pods:
    """Remembers whose an id is."""

    def __init__(self) -> None:
        self._sandboxes: dict[str, Subject] = {}
        self._containers: dict[str, Subject] = {}

    def asked(self, method: str, frame: bytes) -> Subject:
        """Who the request `frame` is about; an undecodable one is about nobody."""
        where = places(method)
        if where is None or not (where.request_configs or where.request_ids):
            return Subject()
        try:
            request = schema.message(where.request).FromString(frame)
        except DecodeError:
            return Subject()
        ids = {name: getattr(request, name) for name in where.request_ids}
        subject = (
            self._containers.get(ids.get("container_id", ""))
            or self._sandboxes.get(ids.get("pod_sandbox_id", ""))
            or Subject()
        )
        for name in where.request_configs:
            subject = _named(subject, getattr(request, name).metadata)
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
            if POD_NAME in status.labels:
                subject = _labelled(subject, status.labels)
            elif where.response == "PodSandboxStatusResponse":
                subject = _named(subject, status.metadata)
        self._learn(subject)
        return subject

    def removed(self, method: str, subject: Subject) -> None:
        """The removal succeeded: its id will not be asked for again."""
        if method.endswith("/RemoveContainer"):
            self._containers.pop(subject.container_id, None)
        elif method.endswith("/RemovePodSandbox"):
            self._sandboxes.pop(subject.sandbox_id, None)

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


def _of_type(message: type[schema.RuntimeMessage], name: str) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in message.DESCRIPTOR.fields
        # By name as well: PodSandboxStatusResponse also holds a list of container statuses.
        if field.name in ("config", "sandbox_config", "status")
        and field.message_type is not None
        and field.message_type.name == name
    )


def _ids(message: type[schema.RuntimeMessage]) -> tuple[str, ...]:
    return tuple(name for name in ("pod_sandbox_id", "container_id") if name in message.DESCRIPTOR.fields_by_name)


def _named(subject: Subject, metadata: schema.RuntimeMessage) -> Subject:
    if not metadata.name:
        return subject
    return replace(subject, pod_namespace=metadata.namespace, pod_name=metadata.name, pod_uid=metadata.uid)


def _labelled(subject: Subject, labels: Mapping[str, str]) -> Subject:
    return replace(
        subject,
        pod_namespace=labels.get(POD_NAMESPACE, ""),
        pod_name=labels.get(POD_NAME, ""),
        pod_uid=labels.get(POD_UID, ""),
    )


def _with_ids(subject: Subject, ids: Mapping[str, str]) -> Subject:
    return replace(
        subject,
        sandbox_id=ids.get("pod_sandbox_id") or subject.sandbox_id,
        container_id=ids.get("container_id") or subject.container_id,
    )
