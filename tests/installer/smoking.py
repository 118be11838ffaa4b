"""podwire-node smoke in a lab node, whose folder is the root that podwire-node looks below."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.lab import images, witness
from tests.lab.netns import Namespace, connect
from tests.lab.node import PLUGIN_FOLDER, TMP, conflist
from tests.lab.witness import MARK

RUN = """
import sys
from pathlib import Path
from cni_plugin.install.__main__ import main
from cni_plugin.install.places import Places
sys.exit(main(sys.argv[2:], Places(Path(sys.argv[1]))))
"""
CLUSTER = ["10.244.0.0/16", "fd00:10:244::/56"]


class Smoking(Protocol):
    """A node of the lab, with a containerd or without."""

    namespace: Namespace
    base: Path
    cgroup_parent: str


class BareNode:
    """A node without a runtime: its namespaces, a /run of its own, the plugin and its conflist."""

    def __init__(self, number: int) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="podwire-test-", dir=TMP))
        self.cgroup_parent = f"/podwire-{os.environ.get(MARK, '')}-{secrets.token_hex(4)}"
        for folder in ("run/podwire", "run/lock", "var-lib", "opt/cni", "etc/cni/net.d"):
            (self.base / folder).mkdir(parents=True)
        shutil.copytree(PLUGIN_FOLDER, self.base / "opt/cni/bin", symlinks=True)
        self.conflist = self.base / "etc/cni/net.d/05-podwire.conflist"
        self.conflist.write_text(json.dumps(configuration(number)))
        self.namespace = Namespace(node=True)
        self.namespace.run(["mount", "--no-mtab", "--bind", self.base / "run", "/run"])
        self.namespace.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])

    def close(self) -> None:
        """Everything of it goes. Twice is fine."""
        self.namespace.close()
        shutil.rmtree(self.base, ignore_errors=True)


def configuration(number: int) -> dict[str, Any]:
    """The conflist of node 1 or 2: both families, no masquerade inside the cluster."""
    ranges = [[{"subnet": f"10.244.{number}.0/24"}], [{"subnet": f"fd00:10:244:{number}::/64"}]]
    return conflist(ipam={"ranges": ranges}, noMasquerade=CLUSTER, log="none")


def join(nodes: Sequence[Smoking]) -> None:
    """Nodes 1 and 2 on one link, with routes to each other's pods."""
    connect(nodes[0].namespace, "lan", "192.0.2.1/24", nodes[1].namespace, "lan", "192.0.2.2/24")
    for node, own, other in ((nodes[0], 1, 2), (nodes[1], 2, 1)):
        for words in (
            ["ip", "address", "add", f"2001:db8::{own}/64", "dev", "lan", "nodad"],
            ["ip", "route", "replace", "default", "via", f"192.0.2.{other}"],
            ["ip", "route", "add", "default", "via", f"2001:db8::{other}"],
            ["ip", "route", "add", f"10.244.{other}.0/24", "via", f"192.0.2.{other}"],
            ["ip", "route", "add", f"fd00:10:244:{other}::/64", "via", f"2001:db8::{other}"],
            ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"],
        ):
            node.namespace.run(words)


def command(node: Smoking, *words: str) -> list[str]:
    """The argument vector of one verb inside the node."""
    python = ["env", f"PYTHONPATH={images.REPOSITORY}", sys.executable, "-c", RUN, str(node.base)]
    return node.namespace.command([*python, "smoke", *words])


def smoke(node: Smoking, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """One verb, to its end."""
    return subprocess.run(command(node, *words), input=stdin, capture_output=True, text=True, timeout=120)


def start(node: Smoking, *words: str) -> dict[str, Any]:
    """`smoke start`, and its line."""
    name = f"node-{node.base.name[-4:]}"
    done = smoke(node, "start", "--node", name, "--cgroup-parent", node.cgroup_parent, *words)
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout)
    return line


def lines(*made: dict[str, Any]) -> str:
    """What `check` reads."""
    return "".join(json.dumps(line) + "\n" for line in made)


def stopped(node: Smoking, before: witness.Snapshot) -> None:
    """`smoke stop`, after which the node is as it was."""
    smoke(node, "stop")
    left = witness.settled(before, lambda: witness.of_node(node.namespace, node.base))
    assert not left, "left on the node:\n" + "\n".join(left)
    assert not [path for path in (node.base / "run/podwire").iterdir() if path.name.startswith("smoke")]
