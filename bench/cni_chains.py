"""The chains of CNI plugins that bench.cni compares, and how a runtime calls a chain."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.driver import Exec, Measured, Running

_VERSION = "1.0.0"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FIRST_HOST_PORT = 20000


# Executable and configuration of one plugin.
Step = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """Where plugins and their files are: folder of the reference plugins, our executable, folder for state."""

    plugins: str
    podwire: str
    state: str


@dataclass(frozen=True)
class Pod:
    """What a chain is called for: a number of its own among the pods that exist at once, and its namespace."""

    number: int
    netns: str


@dataclass(frozen=True)
class Chain:
    """A network of one or more plugins: (executable, its configuration), the first made first."""

    name: str
    position: int
    steps: Sequence[tuple[str, Mapping[str, Any]]]
    place: Place
    results: dict[int, Any] = field(default_factory=dict)

    def add(self, pod: Pod) -> list[Measured]:
        """ADD for one pod, plugin by plugin; keeps the result for DEL."""
        measured = []
        result = None
        for step in range(len(self.steps)):
            measured.append(Running(self.call("ADD", pod, step, result)).finish())
            result = json.loads(measured[-1].output)
        self.results[pod.number] = result
        return measured

    def delete(self, pod: Pod) -> list[Measured]:
        """DEL for one pod, in the reverse order and with ADD's result, as runtimes do."""
        result = self.results.pop(pod.number, None)
        return [Running(self.call("DEL", pod, step, result)).finish() for step in reversed(range(len(self.steps)))]

    def call(self, command: str, pod: Pod, step: int, result: Any) -> Exec:
        """The process of one plugin of the chain."""
        program, own = self.steps[step]
        document: dict[str, Any] = {"cniVersion": _VERSION, "name": f"bench{self.position}", **own}
        if result is not None and (step or command == "DEL"):
            document["prevResult"] = result
        if document.get("capabilities", {}).get("portMappings"):
            port = _FIRST_HOST_PORT + 1000 * self.position + pod.number
            document["runtimeConfig"] = {"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]}
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"bench-{self.position}-{pod.number}",
            "CNI_NETNS": pod.netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": self.place.plugins,
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-{pod.number}",
            "PATH": _PATH,
        }
        return Exec([program], env, json.dumps(document).encode())


def reference_step(place: Place, kind: str, subnets: Sequence[str], folder: str) -> Step:
    """A reference plugin with host-local, whose files are in `folder`: one address out of each subnet."""
    ipam = {
        "type": "host-local",
        "dataDir": folder,
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
    }
    return f"{place.plugins}/{kind}", {"type": kind, "ipam": ipam}


def podwire_step(place: Place, subnets: Sequence[str], folder: str) -> Step:
    """podwire with its state in `folder`: one address out of each subnet."""
    return place.podwire, {
        "type": "podwire",
        "ipam": {"ranges": [[{"subnet": subnet}] for subnet in subnets]},
        "stateDir": folder,
        "log": "none",
    }


def chains(place: Place) -> dict[str, Chain]:
    """All that are compared, by name, in the order of the tables. Each has a subnet of its own."""

    def subnets(position: int, dual: bool) -> list[str]:
        return [f"10.{100 + position}.0.0/16"] + ([f"fd00:{100 + position}::/64"] if dual else [])

    def reference(kind: str, position: int, dual: bool = False, **more: Any) -> Step:
        program, own = reference_step(place, kind, subnets(position, dual), f"{place.state}/host-local")
        return program, {**own, **more}

    def podwire(position: int, dual: bool = False, **more: Any) -> Step:
        program, own = podwire_step(place, subnets(position, dual), f"{place.state}/podwire")
        return program, {**own, **more}

    ports: dict[str, Any] = {"capabilities": {"portMappings": True}}
    portmap = (f"{place.plugins}/portmap", {"type": "portmap", **ports})
    bridge: dict[str, Any] = {"bridge": "bench0", "isGateway": True, "ipMasq": True}
    every: list[tuple[str, list[Step]]] = [
        (PTP, [reference("ptp", 0)]),
        (PTP_MASQ, [reference("ptp", 1, ipMasq=True)]),
        (PTP_PORT, [reference("ptp", 2, ipMasq=True), portmap]),
        (BRIDGE_MASQ, [reference("bridge", 3, **bridge)]),
        (PODWIRE, [podwire(4)]),
        (PODWIRE_MASQ, [podwire(5, ipMasq=True)]),
        (PODWIRE_PORT, [podwire(6, ipMasq=True, **ports)]),
        (PTP_DUAL, [reference("ptp", 7, dual=True, ipMasq=True), portmap]),
        (PODWIRE_DUAL, [podwire(8, dual=True, ipMasq=True, **ports)]),
    ]
    return {name: Chain(name, position, steps, place) for position, (name, steps) in enumerate(every)}


PTP = "ptp + host-local"
PTP_MASQ = "ptp ipMasq + host-local"
PTP_PORT = "ptp ipMasq + host-local + portmap"
BRIDGE_MASQ = "bridge ipMasq + host-local"
PODWIRE = "podwire"
PODWIRE_MASQ = "podwire ipMasq"
PODWIRE_PORT = "podwire ipMasq + hostPort"
PTP_DUAL = "ptp ipMasq + host-local + portmap, dual stack"
PODWIRE_DUAL = "podwire ipMasq + hostPort, dual stack"
