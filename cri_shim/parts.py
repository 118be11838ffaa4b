"""Where a request of the life cycle holds what an interceptor looks at: the pod's part, the container's part.

RunPodSandbox brings the pod's configuration, CreateContainer brings the container's and the pod's once more.
"""

from __future__ import annotations

from cri_shim.schema import RuntimeMessage

LIFE_CYCLE = ("RunPodSandbox", "CreateContainer")


def pod_of(request: RuntimeMessage) -> RuntimeMessage:
    """The PodSandboxConfig of a request of LIFE_CYCLE."""
    part: RuntimeMessage = request.sandbox_config if creates_container(request) else request.config
    return part


def container_of(request: RuntimeMessage) -> RuntimeMessage | None:
    """The ContainerConfig of a CreateContainerRequest, None of the others."""
    return request.config if creates_container(request) else None


def creates_container(request: RuntimeMessage) -> bool:
    """Whether it is a CreateContainerRequest."""
    return bool(request.DESCRIPTOR.name == "CreateContainerRequest")
