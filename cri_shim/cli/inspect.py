"""podwire-cri inspect: what a container became, and where that is not what CRI asked for.

containerd keeps the CRI request (as it arrived, so after every rule of the shim) in a verbose ContainerStatus, and the
OCI specification in its own interface. Between the two are containerd, its image's configuration, NRI and CDI.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import grpc

from cri_shim import schema
from cri_shim.endpoint import Endpoint
from cri_shim.errors import InspectError
from cri_shim.native import GET_CONTAINER, METADATA, specification
from cri_shim.upstream import LIMITS

CONTAINER_STATUS = "/runtime.v1.RuntimeService/ContainerStatus"
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not what was asked for; "" where a side has nothing of it."""

    what: str
    asked: str
    became: str


@dataclass(frozen=True, slots=True)
class Inspected:
    """A container with its request ({} where the runtime does not tell) and its specification."""

    id: str
    request: dict[str, Any]
    specification: dict[str, Any]

    def differences(self) -> list[Difference]:
        """All that is known to differ; [] without a request."""
        return list(_differences(self.request, self.specification)) if self.request else []

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "id": self.id,
            "differences": [asdict(each) for each in self.differences()],
            "request": self.request,
            "specification": self.specification,
        }


def inspect(endpoint: Endpoint, container: str) -> Inspected:
    """Ask the runtime at `endpoint`; a unique beginning of the id is enough. Raises InspectError."""
    options = [*LIMITS, ("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{quote(endpoint.path)}", options=options) as channel:
        request = schema.message("ContainerStatusRequest")(container_id=container, verbose=True)
        found = schema.message("ContainerStatusResponse").FromString(
            _ask(channel, CONTAINER_STATUS, request.SerializeToString(), container)
        )
        told = _object(found.info.get("info", ""))
        whole = str(found.status.id)
        try:
            wanted = schema.native("GetContainerRequest")(id=whole).SerializeToString()
            frame = _ask(channel, GET_CONTAINER, wanted, container, METADATA)
            became = specification(schema.native("GetContainerResponse").FromString(frame).container)
        except InspectError as error:
            # Another runtime may have the same in its verbose status.
            became = told.get("runtimeSpec") or {}
            if not became:
                raise InspectError(f"{endpoint} does not tell the OCI specification of {container}: {error}") from None
    return Inspected(whole, told.get("config") or {}, became)


def _ask(
    channel: grpc.Channel, method: str, request: bytes, container: str, metadata: tuple[tuple[str, str], ...] = ()
) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    try:
        return call(request, timeout=ANSWER_SECONDS, metadata=metadata)
    except grpc.RpcError as error:
        raise InspectError(f"{container}: {error.code().name}: {error.details()}") from error


def _object(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _differences(request: Mapping[str, Any], became: Mapping[str, Any]) -> Iterator[Difference]:
    process = became.get("process") or {}
    arguments = [*(request.get("command") or ()), *(request.get("args") or ())]
    yield from _one("args", arguments or None, process.get("args"))
    yield from _one("cwd", request.get("working_dir") or None, process.get("cwd"))
    asked_env = {each.get("key", ""): each.get("value", "") for each in request.get("envs") or ()}
    became_env = dict(each.partition("=")[::2] for each in process.get("env") or ())
    yield from _each("env", asked_env, became_env)
    yield from _each("mount", _asked_mounts(request), _became_mounts(became))
    yield from _each("resource", _asked_resources(request), _became_resources(became))
    context = (request.get("linux") or {}).get("security_context") or {}
    yield from _capabilities(context.get("capabilities") or {}, process.get("capabilities") or {})
    root = became.get("root") or {}
    yield from _one("readonly root", bool(context.get("readonly_rootfs")), bool(root.get("readonly")))
    yield from _one("no new privileges", bool(context.get("no_new_privs")), bool(process.get("noNewPrivileges")))


def _capabilities(asked: Mapping[str, Any], became: Mapping[str, Any]) -> Iterator[Difference]:
    held = {str(name).removeprefix("CAP_") for name in became.get("bounding") or ()}
    for name in asked.get("add_capabilities") or ():
        if name != "ALL" and name.removeprefix("CAP_") not in held:
            yield Difference(f"capability {name}", "added", "")
    for name in asked.get("drop_capabilities") or ():
        if name.removeprefix("CAP_") in held:
            yield Difference(f"capability {name}", "dropped", "held")


def _one(what: str, asked: object, became: object) -> Iterator[Difference]:
    if asked != became:
        yield Difference(what, _shown(asked), _shown(became))


def _each(what: str, asked: Mapping[str, str], became: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(asked.keys() | became.keys()):
        if asked.get(name) != became.get(name):
            yield Difference(f"{what} {name}", asked.get(name, ""), became.get(name, ""))


def _asked_mounts(request: Mapping[str, Any]) -> dict[str, str]:
    return {
        each.get("container_path", ""): _mount(each.get("host_path", ""), bool(each.get("readonly")))
        for each in request.get("mounts") or ()
    }


def _became_mounts(became: Mapping[str, Any]) -> dict[str, str]:
    return {
        each.get("destination", ""): _mount(each.get("source", ""), "ro" in (each.get("options") or ()))
        for each in became.get("mounts") or ()
    }


def _mount(source: str, readonly: bool) -> str:
    return f"{source} {'ro' if readonly else 'rw'}"


def _asked_resources(request: Mapping[str, Any]) -> dict[str, str]:
    resources = (request.get("linux") or {}).get("resources") or {}
    return _set(
        {
            "memory": resources.get("memory_limit_in_bytes"),
            "cpu shares": resources.get("cpu_shares"),
            "cpu quota": resources.get("cpu_quota"),
            "cpu period": resources.get("cpu_period"),
            "cpuset": resources.get("cpuset_cpus"),
        }
    )


def _became_resources(became: Mapping[str, Any]) -> dict[str, str]:
    resources = (became.get("linux") or {}).get("resources") or {}
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    return _set(
        {
            "memory": memory.get("limit"),
            "cpu shares": cpu.get("shares"),
            "cpu quota": cpu.get("quota"),
            "cpu period": cpu.get("period"),
            "cpuset": cpu.get("cpus"),
        }
    )


def _set(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value not in (None, 0, "")}


def _shown(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
