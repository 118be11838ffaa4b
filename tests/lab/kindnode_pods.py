"""Pods on a kind-like node: a sandbox with one container of the tools image, made by CRI as kubelet makes them."""

import contextlib
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab import images
from tests.lab.cri import CriClient, Pod, Port
from tests.lab.kindnode import CRI_SOCKET, Node
from tests.lab.traffic import http_get

LOGS = Path("/var/log/pods")
# Answers /index.html, and says who asked.
_SERVE = "exec httpd -f -v -p 80 -h /www"


class NodePod:
    """One running pod; it is reached through the socket that made it."""

    def __init__(self, node: Node, name: str, *, socket: Path = CRI_SOCKET, ports: Sequence[Port] = ()) -> None:
        self.node, self.name, self.socket = node, name, socket
        self._logs = LOGS / name
        with self._client() as cri:
            self.pod: Pod = cri.run_pod(
                name,
                uid=f"{name}-{secrets.token_hex(4)}",
                log_directory=self._logs,
                ports=ports,
                # As kubelet with the systemd driver names the slice of a best-effort pod.
                cgroup_parent="kubepods-besteffort.slice",
            )
            try:
                self.container = cri.run_container(self.pod, "server", images.TOOLS, ["/bin/sh", "-c", _SERVE])
                self.addresses = self._addresses(cri)
            except BaseException:
                cri.remove_pod(self.pod)
                raise

    def _client(self) -> "contextlib.AbstractContextManager[CriClient]":
        return self.node.cri(self.socket)

    def _addresses(self, cri: CriClient) -> list[str]:
        network = cri.pod_status(self.pod).network
        return [network.ip, *(each.ip for each in network.additional_ips)]

    @property
    def address(self) -> str:
        """The first one."""
        return self.addresses[0]

    @property
    def runs(self) -> bool:
        """Whether its container still does."""
        with self._client() as cri:
            status = cri.call("ContainerStatus", self.name, container_id=self.container).status
        return bool(status.state == 1)

    def sh(self, script: str, seconds: int = 20) -> str:
        """What a script prints in the pod."""
        with self._client() as cri:
            return cri.execute(self.container, ["sh", "-c", script], self.name, timeout=seconds)[1]

    def get(self, host: str, port: int = 80, seconds: float = 10) -> str:
        """The answer to a GET from this pod, tried for some time; what was said last when there was none."""
        return http_get(self.sh, host, port, seconds)

    def asked_by(self) -> list[str]:
        """The addresses that this pod's server saw, oldest first."""
        text = self.node.read(self._logs / "server.log").decode()
        # httpd -v writes: `[::ffff:10.244.0.2]:35410: response:200`
        return re.findall(r"\[(?:::ffff:)?([0-9a-f.:]+)\]:\d+: response:", text)

    def remove(self) -> None:
        """Stop and remove."""
        with self._client() as cri:
            cri.remove_pod(self.pod)


@contextlib.contextmanager
def pods(*wanted: tuple[Node, str], socket: Path = CRI_SOCKET) -> Iterator[list[NodePod]]:
    """Several pods, removed at the end through containerd itself."""
    with contextlib.ExitStack() as undo:
        made: list[NodePod] = []
        undo.callback(_remove, made)
        for node, name in wanted:
            made.append(NodePod(node, name, socket=socket))
        yield made


def _remove(made: list[NodePod]) -> None:
    # The shim may be gone by now. Whoever took a pod out of the list has removed it.
    for pod in made:
        pod.socket = CRI_SOCKET
        pod.remove()
