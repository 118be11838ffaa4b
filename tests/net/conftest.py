"""A node as podwire-net finds one: network, mount and process namespaces of its own, the plugin installed, pods pinned.

Everything is at its usual place inside (/run/podwire, /run/netns/cni-N), and /run is a tmpfs of the node alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.net import render
from tests.kernel.conftest import NODE_ADDRESS, OUTSIDE_ADDRESS, Answer, executable
from tests.lab.netns import Namespace, connect
from tests.lab.waiting import wait_until

__all__ = ["executable"]
REPOSITORY = Path(__file__).parents[2]
POD_CIDR, POD_CIDR6 = "10.244.0.0/24", "fd00:10:244::/64"


class NetNode:
    """A healthy node. `net` runs podwire-net in it; `pod`, `add` and `call` make pods with the real plugin."""

    def __init__(self, stack: ExitStack, executable: Path, folder: Path) -> None:
        self.folder, self.executable, self.pods = folder, executable, 0
        self.netd, self.bin = folder / "net.d", folder / "bin"
        for each in (self.netd, self.bin):
            each.mkdir(mode=0o755)
        (self.bin / "podwire").symlink_to(executable)
        (self.bin / "loopback").symlink_to(executable)
        self.space = stack.enter_context(Namespace(node=True))
        self.outside = stack.enter_context(Namespace())
        self.space.run(["mount", "--no-mtab", "-t", "tmpfs", "-o", "mode=755", "run", "/run"])
        connect(self.space, "uplink", f"{NODE_ADDRESS}/24", self.outside, "node", f"{OUTSIDE_ADDRESS}/24")
        self.space.run(["ip", "route", "add", "default", "via", OUTSIDE_ADDRESS])
        self.lay_over("/proc/sys/fs/inotify/max_user_instances", "8192")
        self.lay_over("/proc/sys/fs/inotify/max_user_watches", "524288")
        self.sysctl("net.ipv4.conf.all.rp_filter", 0)
        self.configure()

    def configure(self, *pod_cidrs: str, **entry: Any) -> None:
        """Write the conflist; `entry` is laid over podwire's entry, None removes a key."""
        document = json.loads(
            render.render(render.Options(list(pod_cidrs) or [POD_CIDR], log=str(self.folder / "log")))
        )
        merged = document["plugins"][0] | entry
        document["plugins"][0] = {key: value for key, value in merged.items() if value is not None}
        self.conflist = document
        (self.netd / "10-podwire.conflist").write_text(json.dumps(document))

    def lay_over(self, path: str, text: str) -> None:
        """Make a file of the node, as of /proc/sys, read as `text` there, and nowhere else."""
        source = self.folder / f"laid-{path.replace('/', '-')}"
        source.write_text(text + "\n")
        self.space.run(["mount", "--no-mtab", "--bind", source, path])

    def sysctl(self, name: str, value: int) -> None:
        """Set a sysctl of the node's network namespace."""
        self.sh(f"echo {value} > /proc/sys/{name.replace('.', '/')}")

    def sh(self, script: str) -> str:
        """Run a shell script in the node."""
        return self.space.run(["sh", "-ec", script]).stdout

    def pod(self) -> str:
        """A fresh pod namespace, pinned as runtimes do it; returns its path in the node."""
        self.pods += 1
        self.sh(f"ip netns add cni-{self.pods}")
        return f"/run/netns/cni-{self.pods}"

    def end(self, pod: str) -> None:
        """Let the namespace go, as when a sandbox dies without DEL, and wait until the kernel has taken its links."""
        name = pod.rpartition("/")[2]
        ours = len(self.links())
        self.sh(f"ip netns delete {name}")
        if ours:
            wait_until(lambda: len(self.links()) < ours, 10, f"the kernel to end the namespace {name}")

    def links(self) -> list[str]:
        """The names of podwire's links."""
        listed = json.loads(self.sh("ip -j link show") or "[]")
        return [link["ifname"] for link in listed if link["ifname"].startswith("pw")]

    def call(self, command: str, container: str, pod: str = "", *ports: tuple[int, int], **env: str) -> Answer:
        """Run the plugin once, with hostPorts as (host port, container port)."""
        entry = self.conflist["plugins"][0] | {key: self.conflist[key] for key in ("cniVersion", "name")}
        if entry.get("chained"):
            # What the plugin before would have answered.
            entry["prevResult"] = {"cniVersion": self.conflist["cniVersion"], "ips": [{"address": "10.9.0.7/24"}]}
        if ports:
            entry["runtimeConfig"] = {"portMappings": [{"hostPort": one, "containerPort": two} for one, two in ports]}
        parameters = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": pod,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.bin),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={container}",
            "PATH": os.environ["PATH"],
            **env,
        }
        argv = self.space.command(
            ["env", "-i", *(f"{name}={text}" for name, text in parameters.items()), self.executable]
        )
        return Answer(subprocess.run(argv, input=json.dumps(entry), capture_output=True, text=True, timeout=30))

    def add(self, container: str, *ports: tuple[int, int]) -> str:
        """ADD of a new pod that must work; returns the path of its namespace."""
        pod = self.pod()
        assert self.call("ADD", container, pod, *ports).exit_code == 0
        return pod

    def node_folder(self) -> Path:
        """The state folder of the node's namespace, as this process reaches it."""
        return next(path for path in Path(f"/proc/{self.space.pid}/root/run/podwire").iterdir() if path.is_dir())

    def net(self, *arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run podwire-net in the node."""
        words = [str(each) for each in arguments]
        if words[0] != "conf":
            words += ["--netd", str(self.netd)]
        if words[0] == "doctor":
            words += ["--bin", str(self.bin)]
        base = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        pairs = [f"{name}={value}" for name, value in base.items()]
        return self.space.run(["env", *pairs, sys.executable, "-m", "cni_plugin.net", *words], check=False, timeout=60)

    def json(self, *arguments: str, code: int | None = None) -> dict[str, Any]:
        """What podwire-net says with --json, and, where given, that it ends with `code`."""
        done = self.net(*arguments, "--json")
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def findings(self, *arguments: str) -> list[str]:
        """The findings of doctor or audit as `severity check: what`; their exit code must fit."""
        done = self.net(*arguments, "--json")
        found = json.loads(done.stdout)["findings"]
        serious = [each for each in found if each["severity"] != "note"]
        assert done.returncode == (1 if serious else 0), (done.returncode, done.stderr)
        assert all(each["fix"] for each in serious)
        return [f"{each['severity']} {each['check']}: {each['what']}" for each in found]


@pytest.fixture
def node(executable: Path, tmp_path: Path) -> Iterator[NetNode]:
    """A healthy node without pods."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes namespaces")
    with ExitStack() as stack:
        yield NetNode(stack, executable, tmp_path)
