"""A node: namespaces, an uplink to an outside, a containerd, the plugin with its configuration, and the shim.

Like a container, a node has a /run and a /var/lib of its own, bound over the machine's inside its mount namespace; so
containerd, CNI's cache and the plugin's state use the paths they use on a real node. Everything on disk is one folder
in /var/tmp (`base`; base/run is the node's /run), everything else dies with the node's first process.
"""

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab import images
from tests.lab.containerd import Containerd, ContainerdBinary
from tests.lab.cri import CriClient, CriError, Pod, Port
from tests.lab.netns import Daemon, Namespace, connect, started
from tests.lab.waiting import wait_until
from tests.lab.witness import MARK

# TEST-NET-2: addresses that exist in no real network.
NODE_ADDRESS = "198.51.100.10"
OUTSIDE_ADDRESS = "198.51.100.20"
SUBNET = "10.244.0.0/24"

PLUGIN_FOLDER = images.REPOSITORY / "build" / "cni"
TMP = Path("/var/tmp")
# In each node's folder: what kept.stop() needs when this process is no more.
RECORD = "node.json"


def conflist(*, subnet: str = SUBNET, cooldown: int = 30, **more: Any) -> dict[str, Any]:
    """The plugin's configuration as a list of one; `more` are further keys of the plugin. A node adds its `log`."""
    plugin = {
        "type": "podwire",
        "ipam": {"ranges": [[{"subnet": subnet}]], "cooldownSeconds": cooldown},
        "ipMasq": True,
        "stateDir": "/run/podwire",
        "capabilities": {"portMappings": True},
        **more,
    }
    return {"cniVersion": "1.0.0", "name": "podwire", "plugins": [plugin]}


class Node:
    """A running node; close() (or leaving the context) takes all of it away, whatever happened."""

    def __init__(
        self,
        binary: ContainerdBinary,
        *,
        kind: str = "test",
        configuration: dict[str, Any] | None = None,
        plugin_folder: Path = PLUGIN_FOLDER,
        detached: bool = False,
        shim: str = 'ready = "off"\ngc_seconds = 0\n',
    ) -> None:
        """`shim` is what else stands in the table [network] of the shim; by default it never calls the plugin."""
        self.token = secrets.token_hex(4)
        self.base = Path(tempfile.mkdtemp(prefix=f"podwire-{kind}-", dir=TMP))
        self.cgroup_parent = f"/podwire-{os.environ.get(MARK, '')}-{self.token}"
        self.plugin_log = self.base / "plugin.log"
        self.pod_logs = self.base / "pods"
        self.cri_socket = self.base / "run/podwire/cri.sock"
        self.containerd_socket = self.base / "run/containerd/containerd.sock"
        self.pods: list[Pod] = []
        self.shim: Daemon | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(remove_folder, self.base)
            undo.callback(remove_cgroups, self.cgroup_parent)
            for folder in ("run/containerd", "run/podwire", "run/lock", "var-lib", "cni/bin", "cni/conf", "pods"):
                (self.base / folder).mkdir(parents=True)
            self.outside = undo.enter_context(Namespace(detached=detached))
            self.namespace = undo.enter_context(Namespace(node=True, detached=detached))
            holders = {str(pid): started(pid) for pid in (self.outside.pid, self.namespace.pid)}
            (self.base / RECORD).write_text(json.dumps({"holders": holders, "cgroup": self.cgroup_parent}) + "\n")
            self._network()
            self._plugin(plugin_folder, configuration or conflist())
            folders = f'conf_dir = "{self.base}/cni/conf"\nbin_dir = "{self.base}/cni/bin"\n'
            self._network_table = f"\n[network]\n{folders}{shim}"
            (self.base / "shim.toml").write_text(self._network_table)
            self.containerd = Containerd(
                binary,
                self.namespace,
                self.base,
                cni_bin=self.base / "cni/bin",
                cni_conf=self.base / "cni/conf",
                pause=images.PAUSE,
            )
            self.containerd.start()
            for image in images.images():
                self.containerd.load(image.archive)
            self.start_shim()
            self.cri = undo.enter_context(contextlib.closing(CriClient(self.cri_socket)))
            self._wait_ready()
            self.cri.timings.clear()
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, remove every file, mount, link and cgroup of the node. Twice is fine."""
        self._undo.close()

    def _network(self) -> None:
        for folder, place in (("run", "/run"), ("var-lib", "/var/lib")):
            self.namespace.run(["mount", "--no-mtab", "--bind", self.base / folder, place])
        connect(self.namespace, "up0", f"{NODE_ADDRESS}/24", self.outside, "out0", f"{OUTSIDE_ADDRESS}/24")
        # As on every Kubernetes node. It is the node's own sysctl: the namespace has its own copy.
        self.namespace.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        # The outside has no route to the pods: only masqueraded traffic gets an answer.
        self.namespace.run(["ip", "route", "add", "default", "via", OUTSIDE_ADDRESS])

    def _plugin(self, folder: Path, configuration: dict[str, Any]) -> None:
        bin_folder = self.base / "cni/bin"
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.copytree(entry, bin_folder / entry.name, symlinks=True)
            else:
                shutil.copy2(entry, bin_folder / entry.name)
        # containerd executes a plugin of this name for every sandbox.
        if not (bin_folder / "loopback").exists():
            (bin_folder / "loopback").symlink_to("podwire")
        self.write_configuration(configuration)

    def write_configuration(self, configuration: dict[str, Any]) -> None:
        """Replace the conflist, as an atomic rename in its folder; containerd notices by itself."""
        for plugin in configuration["plugins"]:
            if plugin["type"] == "podwire":
                plugin.setdefault("log", str(self.plugin_log))
        place = self.base / "cni/conf/10-podwire.conflist"
        temporary = place.with_suffix(".tmp")
        temporary.write_text(json.dumps(configuration, indent=2) + "\n")
        temporary.rename(place)

    def start_shim(self) -> None:
        """Start podwire-shim in the node, in front of its containerd, with the capabilities that its unit has."""
        self.shim = self.namespace.start(
            [
                *("setpriv", "--bounding-set", f"-all,{_unit_capabilities()}", "--no-new-privs"),
                *(sys.executable, "-m", "cri_shim"),
                *("--listen", "unix:///run/podwire/cri.sock"),
                *("--upstream", f"unix://{self.containerd.socket}"),
                *("--config", str(self.base / "shim.toml")),
            ],
            self.base / "shim.log",
            env={"PYTHONPATH": str(images.REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def stop_shim(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the shim and wait until it is gone."""
        if self.shim is not None:
            self.shim.kill(number)
            self.shim = None

    def restart_shim(self, configuration: str) -> None:
        """Another shim in the place of the one that runs; its configuration is this TOML and the table [network]."""
        self.stop_shim()
        (self.base / "shim.toml").write_text(configuration + self._network_table)
        self.start_shim()
        self._wait_ready()

    def _wait_ready(self) -> None:
        """Until CRI, through the shim, reports the network ready and the images there."""

        def ready() -> bool:
            if self.shim is not None and not self.shim.running:
                raise RuntimeError(f"the shim ended at its start:\n{self.shim.tail()}")
            try:
                conditions = self.cri.call("Status").status.conditions
                listed = self.cri.call("ListImages").images
            except CriError:
                return False
            tags = {tag for image in listed for tag in image.repo_tags}
            return all(condition.status for condition in conditions) and {images.PAUSE, images.TOOLS} <= tags

        wait_until(ready, 30, "the node to report itself ready", every=0.05, hint=self.explain)

    def explain(self) -> str:
        """The last words of every daemon, for messages."""
        parts = []
        for name in ("containerd.log", "shim.log", "plugin.log"):
            log = self.base / name
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()[-12:]
                parts.append(f"--- {name}\n" + "\n".join(line[:400] for line in lines))
        return "\n".join(parts)

    def restart_containerd(self) -> None:
        """kill -9 the daemon and start it again; pods live on, as with a restart of the service."""
        self.containerd.kill()
        self.containerd.start()
        self._wait_ready()

    def run_pod(self, name: str, *, ports: Sequence[Port] = (), annotations: Mapping[str, str] | None = None) -> Pod:
        """A pod sandbox through the shim, its logs and cgroups below this node's."""
        pod = self.cri.run_pod(
            name,
            uid=f"{name}-{self.token}",
            ports=ports,
            log_directory=self.pod_logs / name,
            cgroup_parent=self.cgroup_parent,
            annotations=annotations,
        )
        self.pods.append(pod)
        return pod

    def run_tools(self, pod: Pod, name: str, script: str) -> str:
        """A container of the tools image running a shell script; returns its id."""
        return self.cri.run_container(pod, name, images.TOOLS, ["/bin/sh", "-c", script])

    def remove_pod(self, pod: Pod) -> None:
        """Stop and remove through the shim."""
        self.cri.remove_pod(pod)
        if pod in self.pods:
            self.pods.remove(pod)

    def shim_events(self, event: str) -> list[dict[str, Any]]:
        """What the shim logged of one kind, oldest first."""
        text = (self.base / "shim.log").read_text()
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def plugin_calls(self) -> list[dict[str, Any]]:
        """What the plugin logged, one entry per call, oldest first."""
        if not self.plugin_log.exists():
            return []
        return [json.loads(line) for line in self.plugin_log.read_text().splitlines() if line.strip()]


def _unit_capabilities() -> str:
    """As setpriv writes them: +net_admin,+chown"""
    unit = (images.REPOSITORY / "conf/podwire-shim.service").read_text()
    (listed,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    return ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in listed.split())


def remove_folder(folder: Path) -> None:
    """Remove a node's folder. Its mounts were in the node's mount namespace, so plain files are all that is here."""
    shutil.rmtree(folder, ignore_errors=False)


def remove_cgroups(parent: str) -> None:
    """Remove the (empty) cgroups below `parent` in every hierarchy; with cgroup v2 there is one."""
    root = Path("/sys/fs/cgroup")
    name = parent.strip("/")
    for top in [root / name, *(root.glob(f"*/{name}"))]:
        if top.is_symlink() or top.parent.is_symlink() or not top.is_dir():
            continue
        for folder, _, _ in os.walk(top, topdown=False):
            # A killed process leaves its cgroup a moment after its parent has been told.
            wait_until(functools.partial(_removed, folder), 10, f"cgroup {folder} to be empty")


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
