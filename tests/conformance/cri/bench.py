"""What a case works with: pods and containers as kubelet asks for them, and their removal when the case is over."""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pytest

from cri_shim import schema
from cri_shim.schema import RuntimeMessage
from tests.conformance.cri.client import Client
from tests.conformance.cri.endpoint import Endpoint
from tests.conformance.cri.normal import Normaliser
from tests.lab import images
from tests.lab.cri import CriError
from tests.lab.waiting import wait_until

MODE = schema.enum("NamespaceMode")
# CRI's own default shares the process namespace; kubelet's does not.
KUBELETS = {"network": MODE["POD"], "pid": MODE["CONTAINER"], "ipc": MODE["POD"]}
RUNNING, EXITED = (schema.enum("ContainerState")[f"CONTAINER_{name}"] for name in ("RUNNING", "EXITED"))
LABEL = "podwire.dev/conformance"
WAIT = "exec sleep 3600"


@dataclass
class Pod:
    """A pod that was run, and what CreateContainer has to repeat of it."""

    id: str
    config: RuntimeMessage
    logs: Path
    namespaces: dict[str, Any]


@dataclass
class Ran:
    """What an ExecSync ended with."""

    code: int
    out: str
    err: str


class Cri:
    """One run of one case at one endpoint. `call`, `refused` and `note` record what two endpoints must share."""

    def __init__(self, endpoint: Endpoint, token: str = "") -> None:
        self.endpoint = endpoint
        self.site = endpoint.site
        self.token = token or secrets.token_hex(4)
        normaliser = Normaliser([(self.token, "<run>"), (endpoint.token, "<shared>"), (endpoint.label, "<endpoint>")])
        self.client = Client(endpoint.sockets, normaliser)
        self.call, self.ask = self.client.call, self.client.ask
        self.refused, self.note = self.client.refused, self.client.note
        self.scratch = self.site.scratch / self.token
        self.scratch.mkdir()
        self._pods: list[str] = []
        self._pod: Pod | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._remove_all()
        if kind is None:
            assert not left, f"still there after StopPodSandbox and RemovePodSandbox: {left}"

    def _remove_all(self) -> list[str]:
        """Remove the pods of this run; returns those that were there nevertheless, which are removed as well."""
        for pod in self._pods:
            self._remove(pod)
        shutil.rmtree(self.scratch)
        if not self._pods:
            return []
        left = [pod.id for pod in self.ask("ListPodSandbox", filter={"label_selector": {LABEL: self.token}}).items]
        for pod in left:
            self._remove(pod)
        return left

    def _remove(self, pod: str) -> None:
        try:
            self.ask("StopPodSandbox", pod_sandbox_id=pod)
        except CriError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
        self.ask("RemovePodSandbox", pod_sandbox_id=pod)

    def folder(self, name: str) -> Path:
        """A new folder that the runtime sees at the same path."""
        made = self.scratch / name
        made.mkdir()
        return made

    def pod_config(
        self,
        name: str = "pod",
        *,
        attempt: int = 0,
        namespaces: dict[str, Any] | None = None,
        security: dict[str, Any] | None = None,
        linux: dict[str, Any] | None = None,
        labels: dict[str, str] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """The fields of a PodSandboxConfig."""
        uid = f"{name}-{self.token}"
        return {
            "metadata": {"name": name, "uid": uid, "namespace": "conformance", "attempt": attempt},
            "hostname": name,
            "log_directory": str(self.scratch / "logs" / name),
            # kubelet always says; without it a runtime copies the node's resolv.conf.
            "dns_config": {"servers": ["192.0.2.53"]},
            "labels": {
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": "conformance",
                "io.kubernetes.pod.uid": uid,
                LABEL: self.token,
                **(labels or {}),
            },
            "linux": {
                "cgroup_parent": self.site.cgroup_parent,
                "security_context": {"namespace_options": {**KUBELETS, **(namespaces or {})}, **(security or {})},
                **(linux or {}),
            },
            **more,
        }

    def pod(self, name: str = "pod", *, handler: str = "", **more: Any) -> Pod:
        """RunPodSandbox; `more` as pod_config has it."""
        fields = self.pod_config(name, **more)
        logs = Path(fields["log_directory"])
        logs.mkdir(parents=True, exist_ok=True)
        config = schema.message("PodSandboxConfig")(**fields)
        made = self.call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id
        self._pods.append(made)
        return Pod(made, config, logs, fields["linux"]["security_context"]["namespace_options"])

    def resident(self) -> tuple[Pod, str]:
        """A pod with a running container that every case may look at, and none may change."""
        found: tuple[Pod, str] | None = self.endpoint.__dict__.get("resident")
        if found is None:
            owner = self.endpoint.kept.enter_context(Cri(self.endpoint, self.endpoint.token))
            pod = owner.pod("resident", labels={"stays": "yes"}, annotations={"example.org/note": "kept"})
            found = (pod, owner.container(pod, WAIT, labels={"role": "resident"}))
            self.endpoint.__dict__["resident"] = found
        for identity in (found[0].id, found[1]):
            self.client.introduce(identity)
        return found

    def request(
        self,
        pod: Pod,
        script: str = WAIT,
        *,
        name: str = "main",
        attempt: int = 0,
        image: str = images.TOOLS,
        security: dict[str, Any] | None = None,
        resources: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """The fields of a CreateContainerRequest: a shell script in the tools image, or what `more` says."""
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": image},
            "command": ["/bin/sh", "-c", script],
            "log_path": f"{name}.log",
            **more,
            "labels": {"io.kubernetes.container.name": name, LABEL: self.token, **more.get("labels", {})},
            "linux": {
                "security_context": {"namespace_options": pod.namespaces, **(security or {})},
                "resources": resources,
            },
        }
        return {"pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config}

    def create(self, pod: Pod, script: str = WAIT, **more: Any) -> str:
        """CreateContainer; `more` as request has it."""
        return str(self.call("CreateContainer", **self.request(pod, script, **more)).container_id)

    def container(self, pod: Pod, script: str = WAIT, **more: Any) -> str:
        """CreateContainer and StartContainer."""
        made = self.create(pod, script, **more)
        self.call("StartContainer", container_id=made)
        return made

    def started(self, script: str = WAIT, **more: Any) -> str:
        """A container that runs; all of one run that are made by this are in one pod, made by the first."""
        if self._pod is None:
            self._pod = self.pod()
        return self.container(self._pod, script, **more)

    def status(self, container: str) -> RuntimeMessage:
        """ContainerStatus.status."""
        status: RuntimeMessage = self.call("ContainerStatus", container_id=container).status
        return status

    def ended(self, container: str, seconds: float = 20) -> RuntimeMessage:
        """Wait until the container has exited, and return its status."""
        wait_until(
            lambda: self.ask("ContainerStatus", container_id=container).status.state == EXITED,
            seconds,
            f"container {container[:12]} to exit",
        )
        return self.status(container)

    def output(self, script: str, **more: Any) -> str:
        """What a container that runs to its end wrote, stdout and stderr, as its log has it."""
        container = self.started(script, **more)
        status = self.ended(container)
        lines = Path(status.log_path).read_text().splitlines()
        text = "\n".join(line.split(" ", 3)[3] for line in lines)
        self.note("its output", text)
        return text

    def execute(self, container: str, *command: str, timeout: int = 20) -> Ran:
        """ExecSync."""
        done = self.call("ExecSync", container_id=container, cmd=command, timeout=timeout)
        return Ran(done.exit_code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def shell(self, container: str, script: str) -> Ran:
        """ExecSync of a shell script."""
        return self.execute(container, "/bin/sh", "-c", script)

    def out(self, container: str, script: str) -> str:
        """What a shell script, which must succeed, writes to stdout; without its last line's end."""
        ran = self.shell(container, script)
        assert ran.code == 0, ran
        return ran.out.rstrip("\n")

    def code(self, name: str, **fields: Any) -> grpc.StatusCode:
        """The status code of a call that may succeed or not."""
        try:
            self.call(name, **fields)
        except CriError as error:
            return error.code
        return grpc.StatusCode.OK

    def logged(self, container: str, text: str) -> list[str]:
        """Wait until the container's log has this text; returns the lines of the log."""
        file = Path(self.ask("ContainerStatus", container_id=container).status.log_path)
        return wait_until(
            lambda: file.read_text().splitlines() if file.exists() and text in file.read_text() else None,
            20,
            f"{text!r} in {file.name}",
        )

    def needs(self, has: object, otherwise: str) -> None:
        """Skip the case, for this reason, unless the runtime or the kernel has what it needs."""
        if not has:
            pytest.skip(otherwise)

    def serves(self, container: str, port: int) -> None:
        """Wait until something in the container's network listens on this TCP port."""
        # /proc/net/tcp has local addresses as hexadecimal, with the state LISTEN as 0A.
        listening = f"grep -q ':{port:04X} [0-9A-F:]* 0A' /proc/net/tcp /proc/net/tcp6"
        command = ["/bin/busybox", "sh", "-c", f"/bin/busybox {listening}"]
        wait_until(lambda: self.ask("ExecSync", container_id=container, cmd=command).exit_code == 0, 20, f"port {port}")
