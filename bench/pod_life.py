"""`python -m bench.pod_life`: a pod's life on real containerd, four ways in turn.

A life is RunPodSandbox, StopPodSandbox and RemovePodSandbox. The ways: directly, with the reference plugins' chain of
bridge, masquerade and port mapping; through podwire-shim, with podwire's plugin; with podwire's plugin directly, which
tells what the hop costs; and in the node's own network, which tells what is left when no plugin wires the pod. Two
nodes of the lab, each with a containerd of its own, in namespaces and folders that end with this process. Needs root,
containerd, runc and the reference plugins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.driver import command, header, percentile, table, tool
from tests.lab import kept
from tests.lab.containerd import ContainerdBinary, installed
from tests.lab.cri import CriClient, CriError, Port
from tests.lab.node import SUBNET, Node, conflist
from tests.lab.waiting import wait_until

_KIND = "bench"
_WARM_UP = 2
_TARGET = 0.7
_VERBS = ("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox")
# Of a folder with more plugins, what the chain executes; each is some megabytes that a node would copy.
_CHAIN = ("bridge", "host-local", "portmap", "loopback")
_HOST_PORT = Port(80, 20080)
_CASES: Mapping[str, Sequence[Port]] = {"no hostPort": (), "one hostPort": (_HOST_PORT,)}

REFERENCE = "bridge ipMasq + portmap, direct"
RELAYED = "podwire, through the shim"
DIRECT = "podwire, direct"
HOST = "hostNetwork, direct"

_NOTES = """\
A life: the three calls, one pod at a time, as the client sees them, in ms. The ways take turns life by life, and the
next begins when every process of the last has ended (podwire's DEL leaves the kernel's grace period to children that
nobody waits for). There is no container but the sandbox's own. Every node executes the reference plugin for
loopback. hostNetwork: nothing but loopback is wired, so it is what the runtime needs whatever the plugin is. without
the hop: the ratio of podwire, direct. State of all plugins is on the disk of the machine's /var/tmp."""


@dataclass
class Way:
    """One client of one node; seconds by case and verb, and of whole lives with the verb ""."""

    name: str
    node: Node
    client: CriClient
    host_network: bool = False
    idle: frozenset[int] = frozenset()
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def live(self, case: str, number: int) -> None:
        """One life to the end of its last process; counted if `number` is not negative."""
        name = f"pod-{number + _WARM_UP}"
        self.client.timings.clear()
        pod = self.client.run_pod(
            name,
            uid=f"{name}-{self.node.token}",
            ports=_CASES[case],
            host_network=self.host_network,
            log_directory=self.node.pod_logs / name,
            cgroup_parent=self.node.cgroup_parent,
        )
        self.client.remove_pod(pod)
        took = {timing.method: timing.seconds for timing in self.client.timings}
        wait_until(lambda: processes(self.node) <= self.idle, 20, f"the processes of {name} to end ({self.name})")
        if number >= 0:
            for verb in _VERBS:
                self.seconds.setdefault((case, verb), []).append(took[verb])
            self.seconds.setdefault((case, ""), []).append(sum(took[verb] for verb in _VERBS))


def processes(node: Node) -> frozenset[int]:
    """The live processes of a node's process namespace, by their numbers on the machine."""
    inside = os.readlink(f"/proc/{node.namespace.pid}/ns/pid")
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # Gone meanwhile, or dead: a zombie has no namespaces.
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == inside:
                    found.add(int(entry.name))
    return frozenset(found)


def reference() -> dict[str, Any]:
    """The conflist of the reference chain, as the lab's for podwire: masquerade, port mapping, one subnet."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "reference", "plugins": [bridge, portmap]}


def measure(ways: Sequence[Way], runs: int) -> None:
    """Every case `runs` times on every way, in turn, forwards and backwards."""
    for way in ways:
        # A first call would also wait for its connection.
        way.client.call("Version", wait_for_ready=True)
        way.idle = processes(way.node)
    for number in range(-_WARM_UP, runs):
        for case in _CASES:
            wired = _wired(ways, case)
            # The kernel takes a network namespace down after its last process: each way follows both its neighbours.
            for way in wired if number % 2 else reversed(wired):
                way.live(case, number)


def _wired(ways: Sequence[Way], case: str) -> list[Way]:
    """The ways that have the case: a hostPort needs a network of the pod's own."""
    return [way for way in ways if not (way.host_network and _CASES[case])]


def life_rows(ways: Sequence[Way]) -> list[list[str]]:
    """One row for each case and way."""
    rows = []
    for case in _CASES:
        for way in _wired(ways, case):
            values = [percentile(way.seconds[case, ""], share) for share in (0.5, 0.9)]
            values += [percentile(way.seconds[case, verb], 0.5) for verb in _VERBS]
            rows.append([f"{case}: {way.name}", *(f"{value * 1000:.1f}" for value in values)])
    return rows


def ratio_rows(ways: Mapping[str, Way]) -> list[list[str]]:
    """One row for each case: the target, and the same without the hop for information."""
    rows = []
    for case in _CASES:
        theirs = percentile(ways[REFERENCE].seconds[case, ""], 0.5)
        ours, bare = (percentile(ways[name].seconds[case, ""], 0.5) / theirs for name in (RELAYED, DIRECT))
        verdict = "met" if ours <= _TARGET else "missed"
        rows.append([f"{case}: {RELAYED} / {REFERENCE}", f"{ours:.3f}", f"{_TARGET:g}", verdict, f"{bare:.3f}"])
    return rows


def inside(node: Node) -> str:
    """What podwire's plugin and the shim logged of themselves, warm-up included."""
    parts = []
    for verb in ("ADD", "DEL"):
        spent = [float(call["total_ms"]) for call in node.plugin_calls() if call["command"] == verb]
        parts.append(f"{verb} {percentile(spent, 0.5):.1f} ms ({len(spent)} calls)")
    calls = [json.loads(line) for line in (node.base / "shim.log").read_text().splitlines() if line.startswith("{")]
    shim = [call["shim_ms"] for call in calls if any(call.get("method", "").endswith(f"/{verb}") for verb in _VERBS)]
    return (
        f"p50 by their own logs: the plugin's {' and '.join(parts)}, without the start of its interpreter; "
        f"the shim's part of a call {percentile(shim, 0.5):.2f} ms."
    )


def versions(binary: ContainerdBinary, plugins: Path, interpreter: str) -> list[str]:
    """What is compared, as the programs and packages name themselves."""
    try:
        package = tool("dpkg-query", "--search", f"{plugins}/bridge").partition(":")[0]
        chain = tool("dpkg-query", "--show", "--showformat=${Package} ${Version}", package)
    except (OSError, RuntimeError):
        chain = f"plugins of {plugins}"
    daemon = tool(str(binary.folder / "containerd"), "--version").split()
    return [
        f"podwire on {tool(interpreter, '--version').strip()}",
        f"podwire-shim on Python {sys.version.split()[0]}",
        f"containerd {daemon[2]}",
        chain,
        tool("iptables", "--version").strip(),
    ]


def run(binary: ContainerdBinary, plugins: Path, interpreter: str, runs: int) -> None:
    """Make both nodes, measure and print."""
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="podwire-bench-plugins-", dir="/var/tmp")))
        tool(interpreter, "-B", "-m", "cni_plugin.packaging", str(folder / "podwire"))
        (folder / "reference").mkdir()
        for name in _CHAIN:
            shutil.copy2(plugins / name, folder / "reference" / name)
        # Of every node with reference plugins; podwire takes the role only where there is none.
        shutil.copy2(plugins / "loopback", folder / "podwire" / "loopback")
        theirs = Node(binary, kind=_KIND, configuration=reference(), plugin_folder=folder / "reference")
        undo.enter_context(theirs)
        ours = undo.enter_context(Node(binary, kind=_KIND, configuration=conflist(), plugin_folder=folder / "podwire"))
        theirs.stop_shim()

        def way(name: str, node: Node, socket: Path, host_network: bool = False) -> Way:
            return Way(name, node, undo.enter_context(contextlib.closing(CriClient(socket))), host_network)

        ways = [
            way(REFERENCE, theirs, theirs.containerd_socket),
            way(RELAYED, ours, ours.cri_socket),
            way(DIRECT, ours, ours.containerd_socket),
            way(HOST, theirs, theirs.containerd_socket, host_network=True),
        ]
        measure(ways, runs)
        logged = inside(ours)
    heads = [f"pod life ({runs} runs)", "p50", "p90", *(f"{verb} p50" for verb in ("run", "stop", "remove"))]
    print(table(heads, life_rows(ways)), end="\n\n")
    heads = ["ratio of medians", "life", "target, at most", "", "without the hop"]
    print(table(heads, ratio_rows({each.name: each for each in ways})), end="\n\n")
    print(logged)
    print(_NOTES)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.pod_life", description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=20, help="counted lives of each case and way (20)")
    parser.add_argument("--plugins", default="/usr/lib/cni", help="folder of the reference plugins (/usr/lib/cni)")
    parser.add_argument("--interpreter", default="/usr/bin/python3", help="what podwire runs on (/usr/bin/python3)")
    parser.add_argument("--containerd", metavar="FOLDER", help="folder of containerd and its shim (that on PATH)")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if os.geteuid() != 0:
        parser.error("namespaces and a containerd need root")
    missing = [name for name in _CHAIN if not Path(options.plugins, name).exists()]
    if missing:
        parser.error(f"{options.plugins} has no {', '.join(missing)}; install containernetworking-plugins")
    binary = ContainerdBinary.at(Path(options.containerd)) if options.containerd else installed()
    if binary is None:
        parser.error("no containerd on PATH; install it or give --containerd")
    kept.sweep(_KIND)
    print(header("bench.pod_life", versions(binary, Path(options.plugins), options.interpreter)), end="\n\n")
    sys.stdout.flush()
    began = time.monotonic()
    try:
        run(binary, Path(options.plugins), options.interpreter, options.runs)
    except CriError as error:
        raise RuntimeError(f"a pod's life ended early, nothing is left of it: {error}") from error
    print(f"The run took {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    command(main)
