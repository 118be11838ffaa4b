"""Clusters of kind-like nodes: containers of the node image, run with the arguments that kind gives to `docker run`.

There is no Kubernetes in them: systemd, containerd, a stand-in for kubelet, and no python.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import images
from tests.lab.cri import CriClient, CriError
from tests.lab.engine import Engine
from tests.lab.waiting import wait_until

IMAGE = "podwire.local/node:1"
NETWORK = "kind"
CRI_SOCKET = Path("/run/containerd/containerd.sock")
# What kind's node image says of itself.
_IMAGE_SETTINGS = (
    'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]',
    "STOPSIGNAL SIGRTMIN+3",
    "ENV container=docker",
)


def load(engine: Engine, archive: Path) -> None:
    """Give the engine the node image."""
    changes = [part for setting in _IMAGE_SETTINGS for part in ("--change", setting)]
    with archive.open("rb") as source:
        subprocess.run(
            [engine.base / "bin/docker", "import", *changes, "-", IMAGE],
            stdin=source,
            check=True,
            capture_output=True,
            env=engine.environment,
            timeout=180,
        )


@dataclass(frozen=True)
class KubeletCall:
    """What kubelet's stand-in noted: the RPC, its gRPC status as a number, and where it went."""

    method: str
    status: str
    endpoint: str


class Node:
    """One running node. What is read of it by path is read from outside, without a process in it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    def __repr__(self) -> str:
        return f"Node({self.name})"

    def exec(
        self,
        *argv: str,
        input: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end in the node, as `docker exec` does."""
        settings = [part for key, value in (env or {}).items() for part in ("--env", f"{key}={value}")]
        done = self.engine.docker(
            *("exec", *(["--interactive"] if input is not None else []), *settings, self.name, *argv),
            input=input.encode() if isinstance(input, str) else input,
            timeout=timeout,
            check=False,
        )
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and done.returncode != 0:
            words = (text.stderr or text.stdout).strip()
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: exit code {done.returncode}: {words}")
        return text

    def sh(self, script: str, *, check: bool = True, timeout: float = 60) -> str:
        """What a shell script prints in the node."""
        return self.exec("sh", "-ec", script, check=check, timeout=timeout).stdout

    @property
    def proc(self) -> Path:
        """/proc/PID of the node's first process; another one after each start."""
        said = self.engine.docker("inspect", "--format", "{{.State.Pid}}", self.name).stdout
        pid = int(said)
        if not pid:
            raise RuntimeError(f"node {self.name} does not run")
        return self.engine.path_of(pid)

    def path(self, place: str | Path) -> Path:
        """A path of the node as a path of this machine. Absolute links in it lead astray; the node's own do not."""
        return self.proc / "root" / str(place).lstrip("/")

    def read(self, place: str | Path) -> bytes:
        """The content of a file of the node."""
        return self.path(place).read_bytes()

    def write(self, place: str | Path, content: bytes | str, mode: int = 0o644) -> None:
        """Make or replace a file, its folder too."""
        target = self.path(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    @property
    def addresses(self) -> list[str]:
        """Of the node in kind's network: IPv4, IPv6."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
        return self.engine.docker("inspect", "--format", form, self.name).stdout.decode().split()

    @contextlib.contextmanager
    def cri(self, socket: Path = CRI_SOCKET, timeout: float = 60) -> Iterator[CriClient]:
        """A client of the node's containerd, or of the shim's socket."""
        with CriClient(self.path(socket), timeout) as client:
            # A busy machine may take longer to connect than the client's first attempt lasts.
            client.call("Version", wait_for_ready=True)
            yield client

    def wait_ready(self, seconds: float = 60) -> None:
        """Until systemd is through with its start without a failed unit, and containerd has its images."""

        def up() -> bool:
            state = self.exec("systemctl", "is-system-running", check=False).stdout.strip()
            if state == "degraded":
                failed = self.exec("systemctl", "--failed", "--no-legend", "--plain", check=False).stdout
                raise RuntimeError(f"node {self.name}: failed units: {failed.strip()}")
            return state == "running"

        wait_until(up, seconds, f"systemd of {self.name} to be up", every=0.2, hint=self.last_words)
        wait_until(self._answers, seconds, f"containerd of {self.name} to answer", every=0.1, hint=self.last_words)

    def _answers(self) -> bool:
        with contextlib.suppress(CriError), self.cri() as client:
            listed = client.call("ListImages").images
            return {images.PAUSE, images.TOOLS} <= {tag for image in listed for tag in image.repo_tags}
        return False

    def last_words(self) -> str:
        """For messages."""
        journal = self.exec("journalctl", "--no-pager", "--lines=25", "--output=cat", check=False)
        return journal.stdout or self.engine.docker("logs", "--tail=25", self.name, check=False).stdout.decode()

    def stop(self) -> None:
        """As `docker stop`: systemd ends its units."""
        self.engine.docker("stop", "--time=30", self.name)

    def kill(self) -> None:
        """A power cut."""
        self.engine.docker("kill", self.name)

    def start(self) -> None:
        """Start again and wait; /run and /tmp are empty then, everything else is kept."""
        self.engine.docker("start", self.name)
        self.wait_ready()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """All its processes frozen, as a node that does not answer any more."""
        self.engine.docker("pause", self.name)
        try:
            yield
        finally:
            self.engine.docker("unpause", self.name)

    def start_elsewhere(self) -> None:
        """Start a stopped node again with other addresses: its own are taken meanwhile by somebody else."""
        squatter = f"{self.name}-squatter"
        self.engine.docker(
            *("run", "--detach", "--name", squatter, "--net", NETWORK, "--cgroupns=private"),
            *("--entrypoint", "/bin/sleep", IMAGE, "1d"),
        )
        try:
            self.start()
        finally:
            self.engine.docker("rm", "--force", "--volumes", squatter)

    def kubelet_calls(self) -> list[KubeletCall]:
        """All that kubelet's stand-in did, oldest first; its starts are calls of the method `started`."""
        text = self.read("/var/log/kubelet-stand-in.log").decode() if self._has_kubelet_log() else ""
        # The last line may be half written.
        return [KubeletCall(*line.split()) for line in text[: text.rfind("\n") + 1].splitlines()]

    def _has_kubelet_log(self) -> bool:
        return self.path("/var/log/kubelet-stand-in.log").exists()

    def pod_cidr(self, cidr: str) -> None:
        """Tell kubelet's stand-in what the node object of a cluster would say."""
        self.write("/kind/pod-cidr", cidr)


class Cluster:
    """Nodes of one cluster, all on the engine's network `kind`: NAME-control-plane, NAME-worker, NAME-worker2..."""

    def __init__(self, engine: Engine, name: str = "kind", nodes: int = 2) -> None:
        self.engine, self.name = engine, name
        roles = ["control-plane", *["worker"] * (nodes - 1)]
        counted = [
            f"{role}{roles[:at].count(role) + 1 if roles[:at].count(role) else ''}" for at, role in enumerate(roles)
        ]
        self.nodes = [Node(engine, f"{name}-{suffix}") for suffix in counted]
        with contextlib.ExitStack() as undo:
            self._network()
            for node, role in zip(self.nodes, roles, strict=True):
                undo.callback(engine.docker, "rm", "--force", "--volumes", node.name, check=False)
                self._run(node, role)
            for node in self.nodes:
                node.wait_ready()
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the nodes. Twice is fine."""
        self._undo.close()

    def _network(self) -> None:
        if self.engine.docker("network", "inspect", NETWORK, check=False).returncode == 0:
            return
        self.engine.docker(
            *("network", "create", "-d=bridge"),
            *("-o", "com.docker.network.bridge.enable_ip_masquerade=true"),
            *("-o", "com.docker.network.driver.mtu=1500"),
            *("--ipv6", "--subnet", "fc00:f853:ccd:e793::/64", NETWORK),
        )

    def _run(self, node: Node, role: str) -> None:
        modules = "/lib/modules" if os.path.isdir("/lib/modules") else str(self.engine.base / "modules")
        # pkg/cluster/internal/providers/docker/provision.go of kind, in its order.
        self.engine.docker(
            *("run", "--name", node.name, "--hostname", node.name),
            *("--label", f"io.x-k8s.kind.role={role}"),
            *("--privileged", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
            *("--tmpfs", "/tmp", "--tmpfs", "/run"),
            *("--volume", "/var", "--volume", f"{modules}:/lib/modules:ro"),
            *("-e", f"KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER={self.engine.snapshotter}"),
            *("--detach", "--tty", "--label", f"io.x-k8s.kind.cluster={self.name}", "--net", NETWORK),
            *("--restart=on-failure:1", "--init=false", "--cgroupns=private", IMAGE),
        )
