"""A small CRI client: synchronous, typed by the shim's schema, and it keeps the time of every call."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from cri_shim import schema
from cri_shim.schema import RuntimeMessage

OPTIONS = [
    # The default authority of a unix target is its percent-encoded path, which strict servers refuse.
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # An error text of the runtime may hold the output of a command; beyond 8 KiB grpc drops it by default.
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 21),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Channels of one process to one target share their connection otherwise; a test's client has its own.
    ("grpc.use_local_subchannel_pool", 1),
]


class CriError(Exception):
    """An RPC that failed: `code` is gRPC's, `details` the server's text, unchanged."""

    def __init__(self, method: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{method}: {code.name}: {details}")
        self.method = method
        self.code = code
        self.details = details


@dataclass(frozen=True)
class Timing:
    """One finished call; `subject` is the pod or container it was about, when known."""

    method: str
    subject: str
    seconds: float


@dataclass(frozen=True)
class Port:
    """One hostPort of a pod."""

    container: int
    host: int
    protocol: str = "TCP"
    host_ip: str = ""


@dataclass
class Pod:
    """A pod sandbox that was run, with the configuration CreateContainer has to repeat."""

    name: str
    id: str
    config: RuntimeMessage
    containers: list[str] = field(default_factory=list)


class CriClient:
    """A client of one CRI socket. Methods raise CriError; `timings` grows by one entry per call."""

    def __init__(self, socket: Path, timeout: float = 60) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=OPTIONS)
        self._timeout = timeout
        self._methods = {method.name: method for method in schema.methods().values()}
        self.timings: list[Timing] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def call(self, name: str, subject: str = "", *, wait_for_ready: bool = False, **fields: Any) -> RuntimeMessage:
        """Any unary RPC by its short name, the request given as fields; returns the response message."""
        method = self._methods[name]
        request = schema.message(method.request)(**fields)
        stub: grpc.UnaryUnaryMultiCallable[RuntimeMessage, RuntimeMessage] = self._channel.unary_unary(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=schema.message(method.response).FromString,
        )
        begun = time.perf_counter()
        try:
            response: RuntimeMessage = stub(request, timeout=self._timeout, wait_for_ready=wait_for_ready)
        except grpc.RpcError as error:
            raise CriError(name, error.code(), error.details() or "") from error
        finally:
            self.timings.append(Timing(name, subject, time.perf_counter() - begun))
        return response

    def run_pod(
        self,
        name: str,
        *,
        uid: str,
        namespace: str = "default",
        ports: Sequence[Port] = (),
        log_directory: Path | None = None,
        cgroup_parent: str = "",
        host_network: bool = False,
        annotations: Mapping[str, str] | None = None,
    ) -> Pod:
        """RunPodSandbox, as kubelet asks for it."""
        network = schema.enum("NamespaceMode")["NODE" if host_network else "POD"]
        config = schema.message("PodSandboxConfig")(
            metadata={"name": name, "uid": uid, "namespace": namespace, "attempt": 0},
            # kubelet gives none to a pod in the node's network: there is no UTS namespace to set it in.
            hostname="" if host_network else name,
            log_directory=str(log_directory or ""),
            # kubelet always says; without it containerd would copy the machine's resolv.conf.
            dns_config={"servers": ["192.0.2.53"]},
            port_mappings=[
                {
                    "protocol": schema.enum("Protocol")[port.protocol],
                    "container_port": port.container,
                    "host_port": port.host,
                    "host_ip": port.host_ip,
                }
                for port in ports
            ],
            annotations=annotations,
            labels={
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
            },
            linux={
                "cgroup_parent": cgroup_parent,
                "security_context": {"namespace_options": {"network": network}},
            },
        )
        sandbox_id = self.call("RunPodSandbox", name, config=config).pod_sandbox_id
        return Pod(name, sandbox_id, config)

    def run_container(self, pod: Pod, name: str, image: str, command: Sequence[str]) -> str:
        """CreateContainer and StartContainer; returns the container's id."""
        created = self.call(
            "CreateContainer",
            f"{pod.name}/{name}",
            pod_sandbox_id=pod.id,
            config={
                "metadata": {"name": name, "attempt": 0},
                "image": {"image": image},
                "command": list(command),
                "log_path": f"{name}.log",
                "labels": {"io.kubernetes.container.name": name},
            },
            sandbox_config=pod.config,
        ).container_id
        pod.containers.append(created)
        self.call("StartContainer", f"{pod.name}/{name}", container_id=created)
        return str(created)

    def pod_status(self, pod: Pod) -> RuntimeMessage:
        """PodSandboxStatus.status."""
        status: RuntimeMessage = self.call("PodSandboxStatus", pod.name, pod_sandbox_id=pod.id).status
        return status

    def address(self, pod: Pod) -> str:
        """The pod's primary address, as the runtime reports it."""
        return str(self.pod_status(pod).network.ip)

    def execute(
        self, container: str, command: Sequence[str], subject: str = "", timeout: int = 20
    ) -> tuple[int, str, str]:
        """ExecSync: exit code, stdout, stderr."""
        done = self.call("ExecSync", subject, container_id=container, cmd=list(command), timeout=timeout)
        return int(done.exit_code), done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def remove_pod(self, pod: Pod) -> None:
        """StopPodSandbox and RemovePodSandbox, which take the containers along. Twice is fine."""
        try:
            self.call("StopPodSandbox", pod.name, pod_sandbox_id=pod.id)
        except CriError as error:
            # containerd 1.6 says so of a removed pod, 2.x succeeds; RemovePodSandbox succeeds in both.
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
        self.call("RemovePodSandbox", pod.name, pod_sandbox_id=pod.id)
