"""`python -m bench.throughput`: what pods of podwire and of the reference ptp carry, in one run, in turn.

Each plugin has a namespace of its own that plays the node, with a neighbour outside: neither's rules are in the way
of the other. Needs root, the reference plugins, iptables and nft.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.cni import versions
from bench.cni_chains import PODWIRE, PODWIRE_PORT, PTP, PTP_PORT, Chain, Place, Pod, chains
from bench.driver import Running, command, header, percentile, seal, table, tool

_STATE = "/run/bench"
_STREAM = str(Path(__file__).with_name("stream.py"))
_PORT = 80
_GIGABIT = 1e9 / 8
_PAIRS = ((PODWIRE, PTP), (PODWIRE_PORT, PTP_PORT))

_NOTES = """\
One TCP connection. The rates are medians over the rounds; the ratio is the median of podwire / ptp over the rounds, in
which the two follow each other at once, and its p10 and p90 tell what the machine's own unrest makes of it. CPU ratio:
processor time of both ends for a byte or a request, podwire / ptp, less dependent on what else runs. Gbit/s is what
has arrived; the sender gives the kernel the same pages again (sendfile), the receiver has it drop them (MSG_TRUNC):
nothing but the way is measured. Requests are one byte each way, one at a time."""


class Node:
    """A namespace with an outside, in which a chain has made two pods."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.name, self.outside = f"node{chain.position}", f"outside{chain.position}"
        tool("ip", "netns", "add", self.name)
        tool("ip", "netns", "add", self.outside)
        tool("ip", "link", "add", "uplink", "netns", self.name, "type", "veth", "peer", "eth0", "netns", self.outside)
        for netns, link, address in ((self.name, "uplink", "192.0.2.2/24"), (self.outside, "eth0", "192.0.2.1/24")):
            tool("ip", "-n", netns, "address", "add", address, "dev", link)
            for each in ("lo", link):
                tool("ip", "-n", netns, "link", "set", each, "up")
        tool("ip", "-n", self.name, "route", "add", "default", "via", "192.0.2.1")
        # A chain without masquerade needs the way back.
        tool("ip", "-n", self.outside, "route", "add", "10.0.0.0/8", "via", "192.0.2.2")
        self.client, self.server = (self._pod(number) for number in range(2))

    def _pod(self, number: int) -> tuple[str, str]:
        """Namespace and address of a new pod."""
        name = f"pod{self.chain.position}-{number}"
        tool("ip", "netns", "add", name)
        tool("ip", "-n", name, "link", "set", "lo", "up")
        result = None
        for step in range(len(self.chain.steps)):
            call = self.chain.call("ADD", Pod(number, f"/run/netns/{name}"), step, result)
            inside = replace(call, argv=["/usr/bin/nsenter", f"--net=/run/netns/{self.name}", *call.argv])
            result = json.loads(Running(inside).finish().output)
        assert result is not None
        return name, result["ips"][0]["address"].partition("/")[0]

    def paths(self) -> dict[str, tuple[str, str, str, int]]:
        """What is measured: (namespace that asks, namespace that answers, address and port that are asked)."""
        client, (server, address) = self.client[0], self.server
        found = {
            "pod to pod": (client, server, address, _PORT),
            "pod to outside": (client, self.outside, "192.0.2.1", _PORT),
        }
        mapping = json.loads(self.chain.call("ADD", Pod(1, ""), len(self.chain.steps) - 1, {}).stdin).get(
            "runtimeConfig"
        )
        if mapping:
            port = mapping["portMappings"][0]["hostPort"]
            found["outside to hostPort"] = (self.outside, server, "192.0.2.2", port)
        return found


@contextmanager
def serving(netns: str) -> Iterator[None]:
    """A server on every address of a namespace, while the context lasts."""
    argv = ["ip", "netns", "exec", netns, sys.executable, "-I", _STREAM, "serve", "0.0.0.0", str(_PORT)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            raise RuntimeError(f"no server in {netns}")
        try:
            yield
        finally:
            server.kill()


def measure(verb: str, path: tuple[str, str, str, int], seconds: float) -> tuple[float, float]:
    """One sample: units a second, and CPU seconds for a unit."""
    client, _, address, port = path
    argv = ["ip", "netns", "exec", client, sys.executable, "-I", _STREAM, verb, address, str(port), str(seconds)]
    rate, cpu = tool(*argv).split()
    return float(rate), float(cpu)


def compare(ours: Node, theirs: Node, rounds: int, seconds: float) -> list[list[str]]:
    """Rows of one pair of chains: path, unit, podwire, ptp, ratio with p10 and p90, ratio of CPU."""
    rows = []
    for path, mine in ours.paths().items():
        other = theirs.paths()[path]
        for verb, unit, scale, digits in (("stream", "Gbit/s", _GIGABIT, 1), ("round-trips", "requests/s", 1.0, 0)):
            samples = []
            for number in range(-1, rounds):
                # Who goes first changes with every round: neither always follows the other's heat.
                order = (mine, other) if number % 2 else (other, mine)
                values = {each: measure(verb, each, seconds) for each in order}
                if number >= 0:
                    samples.append((*values[mine], *values[other]))
            rates = [percentile([sample[which] / scale for sample in samples], 0.5) for which in (0, 2)]
            ratios = [sample[0] / sample[2] for sample in samples]
            cpu = percentile([sample[1] / sample[3] for sample in samples], 0.5)
            spread = [f"{percentile(ratios, share):.2f}" for share in (0.5, 0.1, 0.9)]
            rows.append([f"{ours.chain.name}, {path}", unit, *(f"{each:.{digits}f}" for each in rates), *spread])
            rows[-1].append(f"{cpu:.2f}")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=20, help="counted rounds (20)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of one sample (0.2)")
    parser.add_argument("--plugins", default="/usr/lib/cni", help="folder of the reference plugins (/usr/lib/cni)")
    parser.add_argument("--interpreter", default="/usr/bin/python3", help="what podwire runs on (/usr/bin/python3)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not Path(options.plugins, "ptp").exists():
        parser.error(f"{options.plugins}/ptp does not exist; install containernetworking-plugins or give --plugins")
    seal()
    Path(_STATE).mkdir()
    tool(options.interpreter, "-B", "-m", "cni_plugin.packaging", f"{_STATE}/cni")
    place = Place(options.plugins, f"{_STATE}/cni/podwire", _STATE)
    print(header("bench.throughput", versions(place, options.interpreter)), end="\n\n", flush=True)
    every = chains(place)
    rows = []
    with ExitStack() as stack:
        for ours, theirs in _PAIRS:
            pair = Node(every[ours]), Node(every[theirs])
            for node in pair:
                for netns in (node.server[0], node.outside):
                    stack.enter_context(serving(netns))
            rows += compare(*pair, options.rounds, options.seconds)
    heads = [f"median of {options.rounds} rounds", "", "podwire", "ptp", "ratio", "p10", "p90", "CPU ratio"]
    print(table(heads, rows), end="\n\n")
    print(_NOTES)


if __name__ == "__main__":
    command(main)
