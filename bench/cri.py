"""`python -m bench.cri`: what the shim adds to a CRI call, direct and relayed calls in turn, in one run.

A scripted runtime, the shim and the callers are three processes; everything is in a temporary folder. Needs no root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
from grpc import aio

from bench.cri_upstream import LIMITS, LIST, SIZES, VERSION
from bench.driver import command, header, percentile, table

_START_SECONDS = 15
_REQUEST = bytes(100)
# One slice of one way: calls of all callers together. Direct and relayed slices take turns.
_SLICE = {VERSION: 400, LIST: 80}
_CALLERS = (1, 16)
_WARM_UP_ROUNDS = 1
_CPUCLOCK_SCHED = 2

_NOTES = """\
Latency as the caller sees it, in ms. added: relayed minus direct, of the percentiles. CPU: of the shim's process alone
per relayed call, user and system. Callers, shim and runtime are each one process of Python on these CPUs: with 16
callers what is added is also the queue for them. The shim's log lines go to a file."""


class Series:
    """The samples of one way of one case."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.cpu = 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time of a process with all its threads, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def memory_mib(pid: int) -> dict[str, float]:
    """VmRSS and VmHWM of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


@contextlib.contextmanager
def process(argv: Sequence[str], log: Path) -> Iterator[int]:
    """A Python process of ours in the background, ended with the block; gives its pid."""
    with log.open("wb") as output:
        child = subprocess.Popen([sys.executable, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def channel(socket: Path) -> aio.Channel:
    """A connection of its own to a socket."""
    options = [*LIMITS, ("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    return aio.insecure_channel(f"unix:{socket}", options=options)


async def measure(way: aio.Channel, method: str, callers: int, calls: int) -> list[float]:
    """The latencies in seconds of `calls` calls by `callers` at once, each making its next when one has ended."""
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = way.unary_unary(method)
    latencies: list[float] = []

    async def caller(share: int) -> None:
        for _ in range(share):
            began = time.perf_counter()
            answer = await call(_REQUEST)
            latencies.append(time.perf_counter() - began)
            if len(answer) != SIZES[method]:
                raise RuntimeError(f"{method}: {len(answer)} bytes instead of {SIZES[method]}")

    await asyncio.gather(*(caller(calls // callers) for _ in range(callers)))
    return latencies


async def run(runtime: Path, relayed: Path, pid: int, rounds: int) -> dict[tuple[str, int, str], Series]:
    """All cases, keyed by method, callers and way."""
    ways = {"direct": channel(runtime), "relayed": channel(relayed)}
    try:
        await asyncio.wait_for(asyncio.gather(*(each.channel_ready() for each in ways.values())), _START_SECONDS)
        cases = {(method, callers, way): Series() for method in SIZES for callers in _CALLERS for way in ways}
        for turn in range(-_WARM_UP_ROUNDS, rounds):
            for (method, callers, way), series in cases.items():
                before = cpu_seconds(pid)
                latencies = await measure(ways[way], method, callers, _SLICE[method])
                if turn >= 0:
                    series.latencies += latencies
                    series.cpu += cpu_seconds(pid) - before
        return cases
    finally:
        for each in ways.values():
            await each.close()


def rows(cases: dict[tuple[str, int, str], Series]) -> list[list[str]]:
    """One row for each size of answer and number of callers."""
    made = []
    for method, size in SIZES.items():
        for callers in _CALLERS:
            direct, relayed = cases[method, callers, "direct"], cases[method, callers, "relayed"]
            cells = []
            for share in (0.5, 0.99):
                one, other = percentile(direct.latencies, share), percentile(relayed.latencies, share)
                cells += [_ms(one), _ms(other), _ms(other - one)]
            size_text = f"{size >> 20} MiB" if size >> 20 else f"{size} B"
            callers_text = f"{callers} caller{'s' if callers > 1 else ''}"
            made.append([f"{size_text}, {callers_text}", *cells, _ms(relayed.cpu / len(relayed.latencies))])
    return made


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.cri", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=8, help="counted slices of each case and way (8)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    versions = [f"podwire-shim on Python {sys.version.split()[0]}", f"grpcio {grpc.__version__}"]
    print(header("bench.cri", versions), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder:
        place = Path(folder)
        runtime, relayed, log = place / "runtime.sock", place / "shim.sock", place / "shim.log"
        shim = ["-m", "cri_shim", "--listen", f"unix://{relayed}", "--upstream", f"unix://{runtime}"]
        with (
            process(["-m", "bench.cri_upstream", str(runtime)], place / "runtime.log"),
            process(shim, log) as pid,
        ):
            deadline = time.monotonic() + _START_SECONDS
            while not (runtime.exists() and relayed.exists()):
                if time.monotonic() > deadline:
                    raise SystemExit(f"no socket after {_START_SECONDS} s; the shim said: {log.read_text()}")
                time.sleep(0.05)
            time.sleep(1)
            idle = memory_mib(pid)
            cases = asyncio.run(run(runtime, relayed, pid, options.rounds))
            time.sleep(1)
            loaded = memory_mib(pid)
    heads = ["answer, callers", "p50 direct", "relayed", "added", "p99 direct", "relayed", "added", "CPU a call"]
    print(table(heads, rows(cases)), end="\n\n")
    calls = {method: options.rounds * _SLICE[method] for method in SIZES}
    print(f"Calls of each case and way: {calls[VERSION]} of 100 B, {calls[LIST]} of 1 MiB.")
    print(
        f"Resident memory of the shim: {idle['VmRSS']:.1f} MiB idle, {loaded['VmRSS']:.1f} MiB afterwards, "
        f"{loaded['VmHWM']:.1f} MiB at most."
    )
    print(_NOTES)


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    command(main)
