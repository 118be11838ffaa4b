"""A private containerd in a node: its configuration for 1.x and 2.x, its start, its end."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.netns import Daemon, Namespace
from tests.lab.waiting import wait_until

# Without restrict_oom_score_adj every sandbox fails on a machine without CAP_SYS_RESOURCE, with a message about
# something else. The two hugetlb keys are for kernels without that controller. All are harmless elsewhere.
_CONFIG_1 = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  netns_mounts_under_state_dir = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""

_CONFIG_2 = """\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{socket}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"

  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true

  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni_bin}"]
    conf_dir = "{cni_conf}"

  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


@dataclass(frozen=True)
class ContainerdBinary:
    """One containerd to test with: the folder of containerd, its shim and ctr, and its version."""

    folder: Path
    version: tuple[int, int]

    @property
    def name(self) -> str:
        """As test ids show it: containerd-1.6."""
        return f"containerd-{self.version[0]}.{self.version[1]}"

    @classmethod
    def at(cls, folder: Path) -> "ContainerdBinary":
        """The containerd in `folder`; asks it for its version."""
        said = subprocess.run(
            [folder / "containerd", "--version"], capture_output=True, text=True, check=True, timeout=20
        ).stdout
        # containerd github.com/containerd/containerd/v2 2.1.9+ds1 2.1.9+ds1-5; Docker's writes v1.7.27.
        found = re.search(r"\sv?(\d+)\.(\d+)\.\d", said)
        if found is None:
            raise RuntimeError(f"{folder}/containerd --version says {said.strip()!r}: no version in it")
        return cls(folder, (int(found[1]), int(found[2])))


def installed() -> ContainerdBinary | None:
    """The machine's own containerd, None when there is none."""
    found = shutil.which("containerd")
    return ContainerdBinary.at(Path(found).resolve().parent) if found else None


class Containerd:
    """A containerd running in `node`, with /run and /var/lib as the node has them.

    `stop()` ends the daemon and leaves pods alive, as a restart of the service does; `start()` brings it back.
    """

    socket = Path("/run/containerd/containerd.sock")

    def __init__(
        self, binary: ContainerdBinary, node: Namespace, base: Path, *, cni_bin: Path, cni_conf: Path, pause: str
    ) -> None:
        self.binary = binary
        self._node = node
        self._log = base / "containerd.log"
        self._outer_socket = base / self.socket.relative_to("/")
        self._config = base / "containerd.toml"
        self._config.write_text(
            (_CONFIG_1 if binary.version < (2, 0) else _CONFIG_2).format(
                socket=self.socket,
                pause=pause,
                cni_bin=cni_bin,
                cni_conf=cni_conf,
                snapshotter=_snapshotter(base),
            )
        )
        self.daemon: Daemon | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        path = f"{self.binary.folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.daemon = self._node.start(
            [self.binary.folder / "containerd", "--config", self._config],
            self._log,
            # Docker's containerd and Debian's tracing plugin look for these; a lab reports to nobody.
            env={"PATH": path, "OTEL_SDK_DISABLED": "true"},
        )
        wait_until(self._serves, 30, f"{self.binary.name} to serve", hint=self.daemon.tail)

    def _serves(self) -> bool:
        assert self.daemon is not None
        if not self.daemon.running:
            raise RuntimeError(f"{self.binary.name} ended at its start:\n{self.daemon.tail()}")
        return self._outer_socket.exists() and self.ctr("version", check=False).returncode == 0

    def ctr(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """containerd's own client, in the namespace of CRI's images and containers."""
        return self._node.run(
            [self.binary.folder / "ctr", "-a", self.socket, "-n", "k8s.io", *arguments], check=check, timeout=60
        )

    def load(self, archive: Path) -> None:
        """Import a docker-archive."""
        # Without --local, ctr 2.x lets the daemon unpack through the transfer service; both read the same tar.
        self.ctr("images", "import", archive)

    def kill(self) -> None:
        """SIGKILL to the daemon alone; pods and their shims live on."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon = None


def _snapshotter(base: Path) -> str:
    """overlayfs, except where the folder itself lies on one, as in a container: those do not stack."""
    done = subprocess.run(["stat", "--file-system", "--format", "%T", base], capture_output=True, text=True, check=True)
    return "native" if done.stdout.strip() in {"overlayfs", "overlay"} else "overlayfs"
