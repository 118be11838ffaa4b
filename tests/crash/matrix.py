"""A call is killed at every one of its steps, and what follows brings the node back."""

import random
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import audit, failpoints
from tests.lab.failpoints import Step
from tests.lab.threadnode import ThreadNode
from tests.lab.waiting import wait_until

_IPV4, _IPV6 = [{"subnet": "10.244.0.0/20"}], [{"subnet": "fd00:10:244::/112"}]
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"ipMasq": False, "capabilities": None, "ipam": {"ranges": [_IPV4]}},
    "masquerade and hostPorts": {"ipam": {"ranges": [_IPV4]}},
    "dual stack": {"ipam": {"ranges": [_IPV4, _IPV6]}},
    "second interface": {"ipMasq": False, "capabilities": None, "ipam": {"ranges": [_IPV4, _IPV6]}},
}
RECOVERIES = ("DEL", "ADD", "GC", "reboot")
BYSTANDER = "stays"
_KILLED = -9
_MOST_REPORTED = 5


@dataclass(frozen=True)
class Point:
    """Before or after one step of a call."""

    step: Step
    when: str

    def __str__(self) -> str:
        return f"{self.when} {self.step}"


def host_ports(configuration: str, port: int) -> dict[str, Any]:
    """The hostPorts of one pod, where the configuration has them."""
    if CONFIGURATIONS[configuration].get("capabilities", 1) is None:
        return {}
    mappings = [
        {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": port, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.2"},
    ]
    return {"runtimeConfig": {"portMappings": mappings}}


def pod(node: ThreadNode, configuration: str, name: str = "") -> str:
    """A pod as the configuration wants it: with another plugin's interface, or empty."""
    path = node.pod(name)
    if configuration == "second interface":
        node.within(path, _add_first_interface)
    return path


def _add_first_interface() -> None:
    commands = """\
        link add net0 type veth peer name net0p
        link set net0 addrgenmode none up
        link set net0p addrgenmode none up
        address add 192.0.2.9/24 dev net0
        route add default via 192.0.2.1 dev net0
        address add 2001:db8::9/64 dev net0 nodad
        route add default via 2001:db8::1 dev net0"""
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True, capture_output=True)


def trace(node: ThreadNode, configuration: str, verb: str, *, first: bool = False) -> list[Step]:
    """The steps of an undisturbed call: the first on the node, or one that finds folders and table."""
    node.config |= CONFIGURATIONS[configuration]
    file = node.folder / "steps"
    found: dict[str, list[Step]] = {}
    for _ in range(1 if first else 2):
        path = pod(node, configuration, "traced")
        for command in ("ADD", "GC" if verb == "GC" else "DEL"):
            file.unlink(missing_ok=True)
            listed = [{"containerID": BYSTANDER, "ifname": "eth0"}]
            reply = node.call(
                command,
                "traced",
                path,
                steps=file,
                **host_ports(configuration, 999),
                **({"cni.dev/valid-attachments": listed} if command == "GC" else {}),
            )
            assert reply.exit_code == 0, reply
            found[command] = sorted(failpoints.read(file).steps, key=lambda step: (step.process, step.number))
        node.quiet()
        node.drop_pod("traced")
    return found[verb]


def points(steps: Sequence[Step], share: float = 1.0) -> list[Point]:
    """Before and after every step, or a seeded share of these points."""
    every = [Point(step, when) for step in steps for when in ("before", "after")]
    if share >= 1:
        return every
    chosen = random.Random(len(every)).sample(range(len(every)), int(len(every) * share))
    return [every[index] for index in sorted(chosen)]


class Matrix:
    """One node on which a verb is killed at many points, each time for another container."""

    def __init__(self, launcher: Path, folder: Path, configuration: str, **config: Any) -> None:
        self.node = ThreadNode(launcher, folder)
        self.node.config |= CONFIGURATIONS[configuration] | config
        self.configuration = configuration
        self.ports: dict[str, dict[str, Any]] = {}
        self.empty = self.node.within(self.pod("empty"), audit.network)
        self.result = self.add(BYSTANDER)
        self.baseline = self._holdings()

    def pod(self, container: str) -> str:
        """A new pod as the configuration wants it."""
        return pod(self.node, self.configuration, container)

    def add(self, container: str) -> dict[str, Any]:
        """A pod that is attached undisturbed; returns the result."""
        reply = self.node.call("ADD", container, self.pod(container), **self.ports_of(container))
        assert reply.exit_code == 0, reply
        return reply.json

    def _holdings(self) -> set[str]:
        # A reboot changes the name of the node's folder: boot id and cookie.
        return {re.sub(r"^file [^/]+", "file NODE", line) for line in self.node.holdings()}

    def ports_of(self, container: str) -> dict[str, Any]:
        """The hostPorts of a container, the same at every call."""
        return self.ports.setdefault(container, host_ports(self.configuration, 1000 + len(self.ports)))

    def kill(self, verb: str, at: Sequence[Point]) -> dict[str, Point]:
        """Kill the verb at every point; returns the containers it was called for."""
        containers = {f"c{count}": point for count, point in enumerate(at)}
        if verb != "ADD":
            for container in containers:
                self.add(container)
        file = self.node.folder / "steps"
        for container, point in containers.items():
            file.unlink(missing_ok=True)
            options: dict[str, Any] = {"failpoint": point.step.kill(point.when), "steps": file}
            options |= self.ports_of(container)
            if verb == "GC":
                others = [each for each in (BYSTANDER, *containers) if each != container]
                reply = self.node.gc(*others, **options)
            else:
                path = self.node.pods.get(container) or self.pod(container)
                reply = self.node.call(verb, container, path, **options)
            # A child goes on for a while after its parent has answered.
            wait_until(lambda: failpoints.read(file).reached, 5, f"a kill {point} ({reply})", every=0.002)
            assert point.step.process != "0" or reply.exit_code == _KILLED, f"{point}: {reply}"
        self.no_address_twice()
        return containers

    def no_address_twice(self) -> None:
        """No two pods have an address in common."""
        held: dict[str, str] = {}
        for name, addresses in self.node.addresses().items():
            for address in addresses:
                if address.startswith(("10.244.", "fd00:")):
                    assert address not in held, f"{address} is in {held.get(address)} and in {name}"
                    held[address] = name

    def recover(self, how: str, containers: dict[str, Point]) -> None:
        """DEL, ADD (and DEL), GC or a reboot."""
        recoveries: dict[str, Callable[[dict[str, Point]], None]] = {
            "DEL": self._delete,
            "ADD": self._add_again,
            "GC": self._collect,
            "reboot": self._reboot,
        }
        recoveries[how](containers)

    def _delete(self, containers: dict[str, Point]) -> None:
        for container, point in containers.items():
            reply = self.node.call("DEL", container, self.node.pods.get(container, "/gone"))
            assert (reply.exit_code, reply.stdout) == (0, ""), f"DEL of {container}, killed {point}: {reply}"

    def _add_again(self, containers: dict[str, Point]) -> None:
        for container, point in containers.items():
            path = self.node.pods[container]
            reply = self.node.call("ADD", container, path, **self.ports_of(container))
            result: dict[str, Any] = {"cniVersion": "1.1.0"}
            if reply.code != 110:  # attached: the killed call had done everything but answer
                assert reply.exit_code == 0, f"ADD of {container}, killed {point}: {reply}"
                result = reply.json
            checked = self.node.call("CHECK", container, path, prevResult=result)
            assert checked.exit_code == 0, f"CHECK of {container}, killed {point}: {checked}"
        self.no_address_twice()
        self._delete(containers)

    def _collect(self, containers: dict[str, Point]) -> None:
        reply = self.node.gc(BYSTANDER)
        assert (reply.exit_code, reply.stdout) == (0, ""), reply
        # A pod that comes after it finds nothing in its way.
        self.add("next")
        self.no_address_twice()
        self._delete({"next": next(iter(containers.values()))})

    def _reboot(self, containers: dict[str, Point]) -> None:
        self.node.quiet()
        self.node.reboot()
        self.pod("empty")
        self._delete(containers)
        self.result = self.add(BYSTANDER)

    def leftovers(self, *, drafts: bool = False) -> list[str]:
        """What differs from the baseline, on the node and in the pods that live on; and the bystander's health.

        Records that were never named (`drafts`) hold nothing; that they stay is a test of its own.
        """
        self.node.quiet()
        found = audit.difference(self.baseline, self._holdings())
        found = [line for line in found if drafts or not line.startswith("+ file NODE/pending/.")]
        for name, path in self.node.pods.items():
            if name != BYSTANDER:
                held = audit.difference(self.empty, self.node.within(path, audit.network))
                # The first interface settles by itself, some time after it was set up.
                found += [f"in {name}: {line}" for line in held if " net0" not in line]
        checked = self.node.call("CHECK", BYSTANDER, self.node.pods[BYSTANDER], prevResult=self.result)
        return found + ([] if checked.exit_code == 0 else [f"bystander: {checked}"])


def survives(launcher: Path, folder: Path, configuration: str, verb: str, how: str, at: Sequence[Point]) -> list[str]:
    """Kill, recover, audit; returns what is left, each with the points that leave it."""

    def attempt(chosen: Sequence[Point], name: str) -> list[str]:
        matrix = Matrix(launcher, folder / name, configuration)
        with matrix.node:
            containers = matrix.kill(verb, chosen)
            matrix.recover(how, containers)
            return matrix.leftovers()

    together = attempt(at, "all")
    if not together:
        return []
    found: list[str] = []
    for count, point in enumerate(at):
        if len(found) == _MOST_REPORTED:
            return [*found, "and others; all together leave:", *together]
        left = attempt([point], str(count))
        if left:
            found.append(f"killed {point}: {'; '.join(left)}")
    return found or ["all points together, and none alone, leave:", *together]
