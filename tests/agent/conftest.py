"""Nodes as namespaces, with real agents and pods that the built plugin wired.

              router: 192.0.2.254, 2001:db8:1::fe           router: 203.0.113.254, 2001:db8:2::fe
    a ---+--- bridge --------------------- router ----------------------- c
    b ---+

Node N has 192.0.2.N and 2001:db8:1::N (c: 203.0.113.3 and 2001:db8:2::3); its pods have addresses of 10.244.N.0/24 and
fd00:10:244:N::/112.
"""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import Node, executable  # noqa: F401  # a fixture
from tests.kernel.families import give_ipv6
from tests.lab.netns import Daemon, Namespace, connect
from tests.lab.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
GET = Path(__file__).parent / "get.py"
NEAR, FAR = "near", "far"


class ClusterNode(Node):
    """One node: the plugin's (see there), an agent to start, and its place in the network."""

    def __init__(self, cluster: "Cluster", name: str, number: int, segment: str) -> None:
        self.stack, self.executable, self.folder = cluster.stack, cluster.executable, cluster.folder / name
        self.folder.mkdir()
        self.cluster, self.name, self.number = cluster, name, number
        self.space = self.stack.enter_context(Namespace())
        net4, net6 = ("192.0.2", "2001:db8:1:") if segment == NEAR else ("203.0.113", "2001:db8:2:")
        self.v4, self.v6 = f"{net4}.{number}", f"{net6}:{number}"
        port = f"to-{name}"
        router4 = f"{net4}.254/24"
        # Bridge ports need no address; `connect` gives one, which the bridge takes over.
        connect(self.space, "uplink", f"{self.v4}/24", cluster.router, port, router4)
        give_ipv6(self.space, "uplink", self.v6, f"fe80::{number}")
        if segment == NEAR:
            cluster.router.run(["ip", "address", "flush", "dev", port])
            cluster.router.run(["ip", "link", "set", port, "master", "bridge"])
        else:
            give_ipv6(cluster.router, port, f"{net6}:fe", "fe80::fe")
        self.space.run(["ip", "route", "add", "default", "via", f"{net4}.254"])
        self.space.run(["ip", "route", "add", "default", "via", f"{net6}:fe"])
        self.subnets = [f"10.244.{number}.0/24", f"fd00:10:244:{number}::/112"]
        self.state_dir, self.log = self.folder / "state", self.folder / "log"
        self.config: dict[str, Any] = {
            "cniVersion": "1.1.0",
            "name": "testnet",
            "type": "podwire",
            "ipam": {"ranges": [[{"subnet": each}] for each in self.subnets]},
            "ipMasq": True,
            "stateDir": str(self.state_dir),
            "log": str(self.log),
            "capabilities": {"portMappings": True},
        }
        self.settings: dict[str, Any] = {
            "node_name": name,
            "state_dir": str(self.state_dir),
            "conf_dir": str(self.folder),
            "data_dir": str(self.folder / "data"),
            "debounce_seconds": 0.02,
            "source": "file",
            "file": {"path": str(cluster.peers)},
        }
        self.agent: Daemon | None = None
        self.agent_log = self.folder / "agent.log"

    def start_agent(self, **settings: Any) -> Daemon:
        """Start an agent; `settings` are laid over the node's."""
        merged = self.settings | settings
        file = self.folder / "agent.toml"
        file.write_text(toml(merged))
        env = {"PYTHONPATH": str(REPOSITORY)}
        self.agent = self.space.start(
            [sys.executable, "-m", "cni_plugin.agent", "--config", str(file)], self.agent_log, env
        )
        self.stack.callback(self.agent.kill)
        return self.agent

    def run_agent(self, *arguments: str, check: bool = True) -> str:
        """An agent's other commands; returns what they printed."""
        command = [sys.executable, "-m", "cni_plugin.agent", "--config", str(self.folder / "agent.toml"), *arguments]
        done = self.space.run(["env", f"PYTHONPATH={REPOSITORY}", *command], check=check)
        return done.stdout + done.stderr

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the agent's HTTP server; 0 where nobody listens."""
        done = self.space.run([sys.executable, "-IS", GET, path], check=False)
        code, _, body = done.stdout.partition("\n")
        return int(code or 0), body

    def metric(self, name: str) -> float | None:
        """The value of a series, by its whole name with labels."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return None

    def wait_ready(self) -> None:
        """Until the agent says so."""
        wait_until(lambda: self.get("/readyz")[0] == 200, 20, f"the agent of {self.name}", every=0.1, hint=self.told)

    def told(self) -> str:
        """What the agent wrote."""
        return self.agent_log.read_text(errors="replace") if self.agent_log.exists() else ""

    def wait_told(self, text: str) -> None:
        """Until the agent wrote this."""
        wait_until(lambda: text in self.told(), 15, f"{text!r} in the log of {self.name}", hint=self.told)

    def routes(self) -> dict[str, str]:
        """Our routes: destination -> the rest of the line of ip(8)."""
        found = {}
        for family in ("-4", "-6"):
            for line in self.space.run(["ip", family, "route", "show", "proto", "113"]).stdout.splitlines():
                destination, _, rest = line.partition(" ")
                found[destination] = rest.strip()
        return found

    def wait_routes(self, *destinations: str) -> dict[str, str]:
        """Until our routes are those to these destinations."""
        what = f"routes of {self.name} to {', '.join(destinations) or 'nowhere'}"
        wait_until(lambda: set(self.routes()) == set(destinations), 15, what, hint=self.told)
        return self.routes()

    def add_pod(self, container: str = "c1", *ports: tuple[str, int, int]) -> tuple[Namespace, list[str]]:
        """A pod that the plugin wired, and its addresses."""
        pod = self.pod()
        answer = self.add(container, pod, *ports)
        assert answer.exit_code == 0, answer.stdout + answer.stderr
        return pod, [str(each["address"]).partition("/")[0] for each in answer.json["ips"]]

    def elements(self, name: str) -> list[Any]:
        """A set's elements in our table, empty where it has none."""
        done = self.space.run(["nft", "-j", "list", "set", "inet", "podwire1", name], check=False)
        if done.returncode:
            return []
        return [each for entry in json.loads(done.stdout)["nftables"] for each in entry.get("set", {}).get("elem", [])]


class Cluster:
    """A router, and nodes on demand."""

    def __init__(self, stack: ExitStack, plugin: Path, folder: Path) -> None:
        self.stack, self.executable, self.folder = stack, plugin, folder
        self.peers = folder / "peers.toml"
        self.router = stack.enter_context(Namespace())
        self.router.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        self.router.run(["ip", "link", "add", "bridge", "type", "bridge"])
        self.router.run(["ip", "link", "set", "bridge", "addrgenmode", "none"])
        self.router.run(["ip", "address", "add", "192.0.2.254/24", "dev", "bridge"])
        self.router.run(["ip", "link", "set", "bridge", "up"])
        self.nodes: dict[str, ClusterNode] = {}
        self._has_ipv6 = False

    def node(self, name: str, segment: str = NEAR) -> ClusterNode:
        """One more node."""
        made = self.nodes[name] = ClusterNode(self, name, len(self.nodes) + 1, segment)
        if not self._has_ipv6:
            # A bridge without ports has no carrier, and addresses wait for it.
            give_ipv6(self.router, "bridge", "2001:db8:1::fe", "fe80::fe")
            self._has_ipv6 = True
        return made

    def entry(self, name: str, addresses: Sequence[str] = (), pod_cidrs: Sequence[str] = ()) -> dict[str, Any]:
        """What the peers file says of a node."""
        node = self.nodes.get(name)
        said = list(addresses) or ([node.v4, node.v6] if node else [])
        return {"name": name, "addresses": said, "pod_cidrs": list(pod_cidrs) or (node.subnets if node else [])}

    def write_peers(self, *entries: dict[str, Any]) -> None:
        """The peers file; without entries that of all nodes as they are."""
        listed = entries or [self.entry(name) for name in self.nodes]
        text = "".join(f"[[node]]\n{toml(each)}" for each in listed)
        draft = self.peers.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self.peers)

    def start_agents(self, **settings: Any) -> None:
        """On every node, side by side; returns when all are ready."""
        for node in self.nodes.values():
            node.start_agent(**settings)
        for node in self.nodes.values():
            node.wait_ready()

    def talks(self, asking: Namespace, node: ClusterNode, serving: Namespace, address: str, source: str) -> None:
        """A TCP conversation between pods, in which the server sees the client's own address."""
        node.serve(serving, address, 8080)
        assert node.ask(asking, address, 8080) == source, "\n".join(each.told() for each in self.nodes.values())


def toml(table: dict[str, Any]) -> str:
    """A table of strings, numbers, lists and tables as TOML, of which JSON's values are a part."""
    plain = [f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, dict)]
    tables = [f"[{key}]\n{toml(value)}" for key, value in table.items() if isinstance(value, dict)]
    return "".join(plain + tables)


def fetch(url: str) -> tuple[int, str]:
    """Status and body of an HTTP server of this namespace."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as fault:
        with fault:
            return fault.code, fault.read().decode()


@pytest.fixture
def cluster(executable: Path, tmp_path: Path) -> Iterator[Cluster]:  # noqa: F811  # the fixture above
    """A network without nodes."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with ExitStack() as stack:
        yield Cluster(stack, executable, tmp_path)
