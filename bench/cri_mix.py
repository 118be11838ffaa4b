"""A kubelet's steady traffic on a node of some pods, played to the scripted runtime directly and through the shim.

What is called how often is kubelet's: pkg/kubelet/kubelet.go, kuberuntime/kuberuntime_manager.go, images/
image_gc_manager.go and logs/container_log_manager.go of Kubernetes 1.36. Each of its loops makes its calls one after
the other and rests for its period; loops run side by side, over a connection for each of the two services.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpc import aio

from bench.cri_line import DIRECT, RELAYED, START_SECONDS, Line, channel, line
from bench.cri_node import CONTAINERS_PER_POD, ScriptedNode, path
from bench.driver import percentile
from cri_shim import schema

PODS = (30, 110, 250)
# Direct and relayed windows take turns; one is as long as a period of most loops.
WINDOW_SECONDS = 10
# One pod in so many has an exec probe, with kubelet's default period of 10 s.
_PODS_PER_PROBE = 10

GROUPS = {
    "lists": ("ListPodSandbox", "ListContainers"),
    "ContainerStatus": ("ContainerStatus",),
    "ListContainerStats": ("ListContainerStats",),
    "ExecSync": ("ExecSync",),
    "the rest": ("Status", "Version", "ListImages", "ImageFsInfo"),
}

HEADS = ("pods: calls", "p50 direct", "relayed", "added", "p99 direct", "relayed", "added", "calls")
SHARE_HEADS = ("pods", "calls/s", "share of a core", "CPU a call", "MiB idle", "in the mix, at most", "after it")

NOTES = f"""\
The mix: kubelet's loops on a node with {CONTAINERS_PER_POD} running containers in each pod, an exec probe (10 s)
in one pod of {_PODS_PER_PROBE}, and lists with 0.9 KB for each container and 0.6 KB for each sandbox. Latency in ms as
kubelet sees it, added: relayed minus direct, of the percentiles; where fewer than 100 calls were made, p99 is the
slowest. Share of a core: processor time of the shim's process by the clock, while calls were relayed; CPU a call in
ms. MiB: resident memory of a shim that served this mix only."""


@dataclass(frozen=True)
class Loop:
    """Calls made one after the other; again `period` seconds after they have ended, first at `phase` in a window.

    Loops with a period beyond a window run once in as many windows as it lasts.
    """

    period: float
    phase: float
    calls: Sequence[tuple[str, bytes]]


@dataclass
class Played:
    """One mix: latencies in seconds by way and method, and the relayed windows as a whole."""

    pods: int
    latencies: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0
    memory: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def of(self, way: str, names: Sequence[str]) -> list[float]:
        """The latencies of some methods of one way."""
        return [each for name in names for each in self.latencies.get((way, name), ())]


def loops(node: ScriptedNode) -> list[Loop]:
    """Kubelet's, for a node."""

    def request(name: str, **fields: object) -> tuple[str, bytes]:
        message = schema.message(schema.methods()[path(name)].request)
        return name, bytes(message(**fields).SerializeToString())

    both = [request("ListPodSandbox"), request("ListContainers")]
    statuses = [request("ContainerStatus", container_id=each, verbose=False) for each in node.containers]
    stats = [request("ListContainerStats"), request("ImageFsInfo")]
    probed = node.containers[:: CONTAINERS_PER_POD * _PODS_PER_PROBE]
    probes = [request("ExecSync", container_id=each, cmd=["/bin/ready"], timeout=1) for each in probed]
    return [
        Loop(1, 0.0, both),  # the pod life cycle generator's relist
        Loop(2, 0.5, both),  # housekeeping
        Loop(5, 0.7, [request("Status")]),
        Loop(10, 1.3, [request("ListContainers"), *statuses]),  # the rotation of logs
        Loop(10, 4.9, [*both, *stats]),  # eviction and metrics
        Loop(30, 6.1, [request("ListImages")]),
        Loop(60, 7.3, both),  # garbage collection of containers
        Loop(60, 8.7, [request("Version")]),
        *(Loop(10, WINDOW_SECONDS * (number + 0.5) / len(probes), [probe]) for number, probe in enumerate(probes)),
    ]


class Kubelet:
    """The caller of one way: two connections, kept over all windows."""

    def __init__(self, way: str, socket: Path, played: Played) -> None:
        self._way, self._played = way, played
        self._channels = {service: channel(socket) for service in ("RuntimeService", "ImageService")}

    async def connect(self) -> None:
        """Wait until both connections are there."""
        ready = asyncio.gather(*(each.channel_ready() for each in self._channels.values()))
        await asyncio.wait_for(ready, START_SECONDS)

    async def close(self) -> None:
        """Drop both connections."""
        for each in self._channels.values():
            await each.close()

    async def once(self, calls: Sequence[tuple[str, bytes]]) -> None:
        """Make calls that do not count."""
        await self._repeat(Loop(WINDOW_SECONDS, 0, calls), time.perf_counter() + WINDOW_SECONDS, False)

    async def window(self, every: Sequence[Loop], turn: int) -> None:
        """Play the loops of one window to the end of their last call."""
        end = time.perf_counter() + WINDOW_SECONDS
        due = [loop for loop in every if not turn % max(1, round(loop.period / WINDOW_SECONDS))]
        await asyncio.gather(*(self._repeat(loop, end, True) for loop in due))
        await asyncio.sleep(max(0.0, end - time.perf_counter()))

    async def _repeat(self, loop: Loop, end: float, keep: bool) -> None:
        await asyncio.sleep(loop.phase)
        while time.perf_counter() < end:
            for name, request in loop.calls:
                method = path(name)
                service = method.split("/")[1].rpartition(".")[2]
                call: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channels[service].unary_unary(method)
                began = time.perf_counter()
                await call(request)
                if keep:
                    took = time.perf_counter() - began
                    self._played.latencies.setdefault((self._way, name), []).append(took)
            if time.perf_counter() + loop.period >= end:
                return
            await asyncio.sleep(loop.period)


async def _play(between: Line, played: Played, windows: int) -> None:
    every = loops(ScriptedNode(played.pods))
    kubelets = {way: Kubelet(way, socket, played) for way, socket in between.sockets.items()}
    try:
        for kubelet in kubelets.values():
            await kubelet.connect()
        # A kubelet has asked for every container before; the shim learns from the first status whose one is.
        for kubelet in kubelets.values():
            await kubelet.once([call for loop in every for call in loop.calls])
        for turn in range(windows):
            for way, kubelet in kubelets.items():
                began, before = time.perf_counter(), between.cpu_seconds()
                await kubelet.window(every, turn)
                if way == RELAYED:
                    played.seconds += time.perf_counter() - began
                    played.cpu += between.cpu_seconds() - before
    finally:
        for kubelet in kubelets.values():
            await kubelet.close()


def play(pods: int, windows: int) -> Played:
    """`windows` windows of each way, with a runtime and a shim of their own."""
    played = Played(pods)
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder, line(Path(folder), pods) as between:
        idle, _ = between.memory()
        asyncio.run(_play(between, played, windows))
        time.sleep(1)
        after, highest = between.memory()
        played.memory = idle, highest, after
    return played


def latency_rows(played: Played) -> list[list[str]]:
    """One row for each group of methods."""
    rows = []
    for group, names in GROUPS.items():
        direct, relayed = played.of(DIRECT, names), played.of(RELAYED, names)
        cells = []
        for share in (0.5, 0.99):
            one, other = percentile(direct, share), percentile(relayed, share)
            cells += [f"{value * 1000:.2f}" for value in (one, other, other - one)]
        rows.append([f"{played.pods}: {group}", *cells, str(len(relayed))])
    return rows


def share_row(played: Played) -> list[str]:
    """What the mix takes of a core and of memory."""
    calls = sum(len(each) for (way, _), each in played.latencies.items() if way == RELAYED)
    return [
        str(played.pods),
        f"{calls / played.seconds:.1f}",
        f"{played.cpu / played.seconds:.1%}",
        f"{played.cpu / calls * 1000:.2f}",
        *(f"{value:.1f}" for value in played.memory),
    ]
