"""`python -m bench.cni`: ADD and DEL of podwire beside the reference plugins, whole processes, in one run.

Everything happens in a network namespace of its own that plays the node, with an uplink and a default route; the
files of all plugins are in memory. Needs root, the reference plugins, iptables and nft.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import cni_scale
from bench.cni_chains import (
    PODWIRE_DUAL,
    PODWIRE_MASQ,
    PODWIRE_PORT,
    PTP,
    PTP_DUAL,
    PTP_MASQ,
    PTP_PORT,
    Chain,
    Place,
    Pod,
    chains,
)
from bench.driver import Exec, Measured, Running, command, header, percentile, seal, settle, table, tool

_WARM_UP = 3
# Pods at once, and rounds of that.
_AT_ONCE = ((50, 5), (200, 2))
_HOST_PORT_MS = 0.5
_GROWTH = 1.1
_STATUS_MS, _STATUS_CLAIMS = 20, 10_000
_STATE = "/run/bench"
_CONCURRENT = (PTP, PTP_MASQ, PODWIRE_MASQ, PODWIRE_PORT)
_FLOOR = "(the interpreter alone)"

# (verb, numerator, denominator, at most)
_TARGETS = (
    ("ADD", PODWIRE_PORT, PTP_PORT, 0.25),
    ("DEL", PODWIRE_PORT, PTP_PORT, 0.2),
    ("ADD", PODWIRE_DUAL, PTP_DUAL, 0.25),
    ("DEL", PODWIRE_DUAL, PTP_DUAL, 0.2),
    ("ADD", PODWIRE_MASQ, PTP_MASQ, 0.6),
    ("ADD", PODWIRE_MASQ, PTP, 1.3),
)

_NOTES = """\
wall: from spawning a plugin's process until its output is closed and it has ended, summed over a chain's plugins.
CPU: of the process, of descendants that it waited for, and of orphans that it left behind (podwire's DEL leaves the
kernel's grace period to children that nobody waits for). settled: until those have ended as well. Times are in ms.
Files of all plugins are on tmpfs; host-local's are usually on a disk. (the interpreter alone) is
`{interpreter} -ISB -c pass`."""


class Series:
    """The samples of one chain and verb, in seconds."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.settled: list[float] = []

    def take(self, call: Callable[[], Sequence[Measured]], keep: bool) -> None:
        """Run one call to the end of its last orphan, and count it if `keep`."""
        began = time.perf_counter()
        measured = call()
        orphans = settle()
        settled = time.perf_counter() - began
        if keep:
            self.wall.append(sum(each.wall for each in measured))
            self.cpu.append(sum(each.cpu for each in measured) + orphans)
            self.settled.append(settled)

    def cells(self) -> list[str]:
        """p50 and p90 of wall and CPU, then p50 until settled."""
        values = [percentile(each, share) for each in (self.wall, self.cpu) for share in (0.5, 0.9)]
        return [_ms(value) for value in (*values, percentile(self.settled, 0.5))]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def make_node(pods: int) -> list[Pod]:
    """Give the sealed namespace an uplink with a default route, and make the pods' namespaces."""
    tool("ip", "netns", "add", "outside")
    tool("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", "outside")
    tool("ip", "address", "add", "192.0.2.2/24", "dev", "uplink")
    tool("ip", "link", "set", "uplink", "up")
    tool("ip", "-n", "outside", "address", "add", "192.0.2.1/24", "dev", "eth0")
    tool("ip", "-n", "outside", "link", "set", "eth0", "up")
    tool("ip", "route", "add", "default", "via", "192.0.2.1")
    made = []
    for number in range(pods):
        tool("ip", "netns", "add", f"pod{number}")
        # As after the loopback plugin, which runtimes call first.
        tool("ip", "-n", f"pod{number}", "link", "set", "lo", "up")
        made.append(Pod(number, f"/run/netns/pod{number}"))
    return made


def one_by_one(every: Sequence[Chain], pods: Sequence[Pod], runs: int, floor: Exec) -> dict[tuple[str, str], Series]:
    """Each chain's ADD and DEL in turn, `runs` times after the warm-up; keyed by verb and name."""
    series = {(verb, chain.name): Series() for verb in ("ADD", "DEL") for chain in every}
    series["ADD", _FLOOR] = Series()
    for run in range(-_WARM_UP, runs):
        series["ADD", _FLOOR].take(lambda: [Running(floor).finish()], run >= 0)
        for chain, pod in zip(every, pods, strict=False):
            for verb, call in (("ADD", chain.add), ("DEL", chain.delete)):
                series[verb, chain.name].take(lambda call=call, pod=pod: call(pod), run >= 0)  # type: ignore[misc]
    return series


def at_once(every: Sequence[Chain], pods: Sequence[Pod], rounds: int) -> list[list[str]]:
    """All pods of a chain at once, ADD and then DEL: rows with the median over the rounds, in s.

    DEL has no prevResult here: no plugin of these chains needs it.
    """
    samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for chain in every:
            for verb in ("ADD", "DEL"):
                calls = [chain.call(verb, pod, 0, None) for pod in pods]
                began = time.perf_counter()
                running = [Running(call) for call in calls]
                for each in running:
                    each.finish()
                answered = time.perf_counter() - began
                settle()
                samples.setdefault((chain.name, verb), []).append((answered, time.perf_counter() - began))
    rows = []
    for chain in every:
        cells = [
            f"{statistics.median(sample[which] for sample in samples[chain.name, verb]):.2f}"
            for verb, which in (("ADD", 0), ("DEL", 0), ("DEL", 1))
        ]
        rows.append([chain.name, *cells])
    return rows


def _verdict(value: float, target: float) -> str:
    return "met" if value <= target else "missed"


def ratios(series: dict[tuple[str, str], Series]) -> list[list[str]]:
    """One row for each target: the ratio of the medians of wall time, and of CPU for information."""
    rows = []
    for verb, ours, theirs, target in _TARGETS:
        mine, other = series[verb, ours], series[verb, theirs]
        wall = percentile(mine.wall, 0.5) / percentile(other.wall, 0.5)
        cpu = percentile(mine.cpu, 0.5) / percentile(other.cpu, 0.5)
        row = [f"{verb}: {ours} / {theirs}", f"{wall:.3f}", f"{target:g}", _verdict(wall, target), f"{cpu:.3f}"]
        rows.append(row)
    return rows


def alone(series: dict[tuple[str, str], Series], growth: Sequence[Sequence[str]], status: float) -> list[list[str]]:
    """Rows of the targets that need no other plugin."""
    with_port, without = (percentile(series["ADD", name].wall, 0.5) for name in (PODWIRE_PORT, PODWIRE_MASQ))
    cost = (with_port - without) * 1000
    rows = [["a hostPort adds to ADD, ms", f"{cost:.2f}", f"{_HOST_PORT_MS:g}", _verdict(cost, _HOST_PORT_MS)]]
    verdict = _verdict(status * 1000, _STATUS_MS)
    rows.append([f"STATUS with {_STATUS_CLAIMS} addresses held, ms", _ms(status), f"{_STATUS_MS:g}", verdict])
    for name, *_, ratio in growth:
        if name.startswith("podwire"):
            rows.append([f"growth with held addresses: {name}", ratio, f"{_GROWTH:g}", _verdict(float(ratio), _GROWTH)])
    return rows


def versions(place: Place, interpreter: str) -> list[str]:
    """What is compared, as the programs name themselves."""
    try:
        package = tool("dpkg-query", "--search", f"{place.plugins}/ptp").partition(":")[0]
        reference = tool("dpkg-query", "--show", "--showformat=${Package} ${Version}", package)
    except (OSError, RuntimeError):
        reference = Running(Exec([f"{place.plugins}/ptp"], {}, b"")).finish().output.decode().splitlines()[0]
    return [
        f"podwire on {tool(interpreter, '--version').strip()}",
        reference,
        tool("iptables", "--version").strip(),
        tool("nft", "--version").strip(),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.cni", description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=40, help="counted runs of each chain (40)")
    parser.add_argument("--plugins", default="/usr/lib/cni", help="folder of the reference plugins (/usr/lib/cni)")
    parser.add_argument("--interpreter", default="/usr/bin/python3", help="what podwire runs on (/usr/bin/python3)")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if not Path(options.plugins, "ptp").exists():
        parser.error(f"{options.plugins}/ptp does not exist; install containernetworking-plugins or give --plugins")
    seal()
    Path(_STATE).mkdir()
    tool(options.interpreter, "-B", "-m", "cni_plugin.packaging", f"{_STATE}/cni")
    place = Place(options.plugins, f"{_STATE}/cni/podwire", _STATE)
    print(header("bench.cni", versions(place, options.interpreter)), end="\n\n", flush=True)
    pods = make_node(max(count for count, _ in _AT_ONCE))
    every = chains(place)
    floor = Exec([options.interpreter, "-ISB", "-c", "pass"], {}, b"")
    series = one_by_one(list(every.values()), pods, options.runs, floor)
    for verb in ("ADD", "DEL"):
        heads = [f"{verb}, one at a time ({options.runs} runs)", "wall p50", "p90", "CPU p50", "p90", "settled p50"]
        names = [_FLOOR, *every] if verb == "ADD" else list(every)
        print(table(heads, [[name, *series[verb, name].cells()] for name in names]), end="\n\n", flush=True)
    for count, rounds in _AT_ONCE:
        concurrent = at_once([every[name] for name in _CONCURRENT], pods[:count], rounds)
        heads = [f"{count} at once, total s (median of {rounds})", "ADD", "DEL", "DEL settled"]
        print(table(heads, concurrent), end="\n\n", flush=True)
    heads = ["ADD, wall p50 in ms with so many addresses held", *map(str, cni_scale.HELD), "last / first"]
    growth = cni_scale.rows(place, pods, options.runs)
    print(table(heads, growth), end="\n\n", flush=True)
    print(table(["ratio of medians", "wall", "target, at most", "", "CPU"], ratios(series)), end="\n\n")
    status = cni_scale.status_seconds(place, options.runs, _STATUS_CLAIMS)
    print(table(["of podwire alone", "", "target, at most", ""], alone(series, growth, status)), end="\n\n")
    print(_NOTES.format(interpreter=options.interpreter))


if __name__ == "__main__":
    command(main)
