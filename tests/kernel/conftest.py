"""A node of three kinds of namespace, and the built executable, as every test here uses them.

outside 192.0.2.1 ---- 192.0.2.2 node ---- veths made by the plugin ---- pods
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import packaging
from tests.lab.netns import Daemon, Namespace, connect
from tests.lab.waiting import wait_until

NODE_ADDRESS, OUTSIDE_ADDRESS = "192.0.2.2", "192.0.2.1"
TALK = Path(__file__).parent / "talk.py"


class Answer:
    """What one call of the plugin gave."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.exit_code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> dict[str, Any]:
        """stdout as the one JSON document that it must be."""
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    @property
    def address(self) -> str:
        """The pod's address in a result of ADD."""
        assert self.exit_code == 0, self.stdout + self.stderr
        return str(self.json["ips"][0]["address"]).partition("/")[0]

    def fails_with(self, code: int, *words: str) -> None:
        """One error document with this code, whose text holds these words, and something to do next."""
        assert self.exit_code == 1, self.stdout
        assert self.json["code"] == code, self.stdout
        for word in words:
            assert word in self.json["msg"], self.stdout


class Node:
    """A node's namespace with an uplink to `outside`, pods on demand, and the plugin to call."""

    def __init__(self, stack: ExitStack, executable: Path, folder: Path) -> None:
        self.stack, self.executable, self.folder = stack, executable, folder
        self.space = stack.enter_context(Namespace())
        self.outside = stack.enter_context(Namespace())
        connect(self.space, "uplink", f"{NODE_ADDRESS}/24", self.outside, "node", f"{OUTSIDE_ADDRESS}/24")
        self.space.run(["ip", "route", "add", "default", "via", OUTSIDE_ADDRESS])
        self.state_dir, self.log = folder / "state", folder / "log"
        self.config: dict[str, Any] = {
            "cniVersion": "1.1.0",
            "name": "testnet",
            "type": "podwire",
            "ipam": {"ranges": [[{"subnet": "10.244.0.0/24"}]]},
            "ipMasq": True,
            "stateDir": str(self.state_dir),
            "log": str(self.log),
            "capabilities": {"portMappings": True},
        }

    def pod(self) -> Namespace:
        """A fresh pod namespace."""
        return self.stack.enter_context(Namespace())

    def argv(self, command: str, container: str, netns: str, ifname: str = "eth0", **env: str) -> list[str]:
        """The argument vector of one call, to be run with the configuration on stdin."""
        parameters = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/opt/cni/bin",
            "PATH": os.environ["PATH"],
            **env,
        }
        pairs = [f"{name}={value}" for name, value in parameters.items() if value]
        return self.space.command(["env", "-i", *pairs, str(self.executable)])

    def call(
        self,
        command: str,
        container: str = "",
        pod: Namespace | str = "",
        ifname: str = "eth0",
        *,
        wrap: Callable[[list[str]], list[str]] = list,
        stdin: str | None = None,
        env: dict[str, str] | None = None,
        **config: Any,
    ) -> Answer:
        """Run the plugin once; `config` is laid over the node's configuration, None removes a key."""
        netns = netns_path(pod) if isinstance(pod, Namespace) else pod
        text = json.dumps({key: value for key, value in (self.config | config).items() if value is not None})
        done = subprocess.run(
            wrap(self.argv(command, container, netns, ifname, **(env or {}))),
            input=text if stdin is None else stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return Answer(done)

    def add(self, container: str, pod: Namespace, *ports: tuple[str, int, int], **config: Any) -> Answer:
        """ADD with hostPorts given as (protocol, host port, container port)."""
        if ports:
            mappings = [{"protocol": p, "hostPort": host, "containerPort": inner} for p, host, inner in ports]
            config["runtimeConfig"] = {"portMappings": mappings}
        return self.call("ADD", container, pod, **config)

    def serve(self, space: Namespace, address: str, port: int, protocol: str = "tcp") -> Daemon:
        """A server that tells each caller the address it came from."""
        log = self.folder / f"server-{protocol}-{space.pid}-{address}-{port}"
        server = space.start([sys.executable, TALK, "serve", protocol, address, str(port)], log)
        self.stack.callback(server.kill)
        wait_until(lambda: "ready" in log.read_text().split(), 10, f"the server on {address}:{port}", hint=server.tail)
        return server

    def ask(
        self,
        space: Namespace,
        address: str,
        port: int,
        protocol: str = "tcp",
        source: str = "",
        source_port: int = 0,
        seconds: float = 6,
    ) -> str:
        """What a server answers to a caller in `space`: the caller's address as it sees it, or "no answer"."""
        command = [sys.executable, str(TALK), "ask", protocol, address, str(port), source, str(source_port)]
        return space.run([*command, str(seconds)], check=False).stdout.strip()

    def refused(
        self, space: Namespace, address: str, port: int, protocol: str = "tcp", source: str = "", source_port: int = 0
    ) -> bool:
        """Whether a caller in `space` gets no answer, for as long as it is reasonable to wait for what never comes."""
        return self.ask(space, address, port, protocol, source, source_port, 1.5) == "no answer"

    def witness(self, space: Namespace) -> dict[str, Any]:
        """Links, addresses, routes and neighbours of a namespace as pyroute2 reads them."""
        seen: dict[str, Any] = json.loads(space.run([sys.executable, Path(__file__).parent / "witness.py"]).stdout)
        return seen

    def ruleset(self) -> str:
        """The node's nft ruleset."""
        return self.space.run(["nft", "list", "ruleset"]).stdout

    def files(self, *folders: str) -> list[str]:
        """Names of what the state folder holds in these folders."""
        return sorted(str(path.name) for folder in folders for path in self.state_dir.glob(f"*/{folder}/*"))

    def holdings(self) -> list[str]:
        """Everything that an attachment has on the node: empty once all are gone."""
        links = [link for link in self.witness(self.space)["links"] if link not in ("lo", "uplink")]
        routes = [route for route in self.witness(self.space)["routes"] if route.startswith("10.244.")]
        elements = [line.strip() for line in self.ruleset().splitlines() if "comment" in line]
        claims = self.files("attachments", "pending", "deleting", "addresses", "ports")
        return links + routes + elements + claims


def netns_path(space: Namespace) -> str:
    """The path of a namespace, as a runtime gives it in CNI_NETNS."""
    return f"/proc/{space.pid}/ns/net"


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, built for the interpreter of the system."""
    return packaging.build(tmp_path_factory.mktemp("cni"), "/usr/bin/python3")


@pytest.fixture
def node(executable: Path, tmp_path: Path) -> Iterator[Node]:
    """A node without pods."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with ExitStack() as stack:
        yield Node(stack, executable, tmp_path)
