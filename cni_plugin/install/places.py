"""Where everything lies on a node. With another root than / the same tree lies below that folder, links included."""

from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("podwire-agent", "podwire-cri", "podwire-net", "podwire-node", "podwire-shim")
AGENT_UNIT, SHIM_UNIT = "podwire-agent.service", "podwire-shim.service"
WATCHDOG_UNIT, WATCHDOG_TIMER = "podwire-watchdog.service", "podwire-watchdog.timer"


@dataclass(frozen=True)
class Places:
    """Every path that the installation reads or writes."""

    root: Path = Path("/")

    def at(self, path: str | Path) -> Path:
        """An absolute path of the node below the root."""
        return self.root / str(path).lstrip("/")

    # Ours alone: versions, and which one is in use.

    @property
    def home(self) -> Path:
        """The folder of all versions."""
        return self.at("/opt/podwire")

    @property
    def versions(self) -> Path:
        """One folder per payload, by its identity."""
        return self.home / "versions"

    @property
    def current(self) -> Path:
        """The link to the version in use, replaced by rename."""
        return self.home / "current"

    def version(self, identity: str) -> Path:
        """The folder of one payload."""
        return self.versions / identity

    # What others look into.

    @property
    def cni_bin(self) -> Path:
        """The runtime's folder of CNI executables."""
        return self.at("/opt/cni/bin")

    @property
    def executable(self) -> Path:
        """The plugin, a link into the version in use."""
        return self.cni_bin / "podwire"

    @property
    def loopback(self) -> Path:
        """The runtime's `loopback`, which we provide only where nobody else does."""
        return self.cni_bin / "loopback"

    @property
    def netd(self) -> Path:
        """The runtime's folder of network configurations."""
        return self.at("/etc/cni/net.d")

    @property
    def conflist(self) -> Path:
        """Our network; its number puts it before kindnet's 10."""
        return self.netd / "05-podwire.conflist"

    @property
    def local_bin(self) -> Path:
        """Where people find the commands."""
        return self.at("/usr/local/bin")

    def command(self, name: str) -> Path:
        """The link to one of COMMANDS."""
        return self.local_bin / name

    # Configuration and units.

    @property
    def etc(self) -> Path:
        """Our configuration."""
        return self.at("/etc/podwire")

    @property
    def agent_config(self) -> Path:
        """The agent's configuration."""
        return self.etc / "agent.toml"

    @property
    def shim_config(self) -> Path:
        """The shim's configuration."""
        return self.etc / "shim.toml"

    @property
    def agent_kubeconfig(self) -> Path:
        """How the agent reaches the API; it holds a token, so 0600."""
        return self.etc / "agent.kubeconfig"

    @property
    def peers(self) -> Path:
        """The nodes, where there is no API to ask."""
        return self.etc / "peers.toml"

    @property
    def units(self) -> Path:
        """The administrator's systemd units."""
        return self.at("/etc/systemd/system")

    def unit(self, name: str) -> Path:
        """The file of a unit of ours."""
        return self.units / name

    # What the installation knows of itself, and what runs.

    @property
    def lib(self) -> Path:
        """What outlives a reboot: journal and originals; the shim keeps the node's pod CIDRs here too."""
        return self.at("/var/lib/podwire")

    @property
    def journal(self) -> Path:
        """Journal and record of the installation."""
        return self.lib / "install.json"

    @property
    def lock(self) -> Path:
        """Held (flock) by whoever changes the installation."""
        return self.lib / "install.lock"

    @property
    def originals(self) -> Path:
        """What files were before us, by the SHA-256 of their content."""
        return self.lib / "originals"

    @property
    def pod_cidr(self) -> Path:
        """The pod CIDRs as kubelet told them to the shim last."""
        return self.lib / "pod-cidr"

    @property
    def run(self) -> Path:
        """The plugin's state and the shim's sockets."""
        return self.at("/run/podwire")

    @property
    def shim_socket(self) -> Path:
        """Where kubelet finds the shim."""
        return self.run / "cri.sock"

    @property
    def runtime_socket(self) -> Path:
        """containerd's own socket."""
        return self.at("/run/containerd/containerd.sock")

    @property
    def sysctls(self) -> Path:
        """The kernel's settings as files."""
        return self.at("/proc/sys")

    # kubelet's own files, in which its runtime endpoint may stand.

    @property
    def kubelet(self) -> Path:
        """kubelet's folder."""
        return self.at("/var/lib/kubelet")

    @property
    def kubelet_instance_config(self) -> Path:
        """The node's own part of kubelet's configuration (kubeadm 1.32 and later)."""
        return self.kubelet / "instance-config.yaml"

    @property
    def kubelet_config(self) -> Path:
        """kubelet's configuration as kubeadm writes it."""
        return self.kubelet / "config.yaml"

    @property
    def kubelet_flags(self) -> Path:
        """kubelet's flags as kubeadm writes them."""
        return self.kubelet / "kubeadm-flags.env"

    @property
    def kubelet_defaults(self) -> Path:
        """kubelet's flags as the administrator writes them."""
        return self.at("/etc/default/kubelet")

    @property
    def crictl_config(self) -> Path:
        """crictl's own endpoint."""
        return self.at("/etc/crictl.yaml")
