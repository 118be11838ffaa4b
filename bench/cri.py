"""`python -m bench.cri`: what the shim adds to a CRI call, direct and relayed calls in turn, in one run.

First single calls of two sizes, as fast as they go; then what a kubelet calls on nodes of three sizes. A scripted
runtime, the shim and the callers are three processes; everything is in a temporary folder. Needs no root.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import grpc
from grpc import aio

from bench import cri_mix
from bench.cri_line import DIRECT, RELAYED, START_SECONDS, Line, channel, line
from bench.cri_upstream import LIST, SIZES, VERSION
from bench.driver import command, header, percentile, table

_REQUEST = bytes(100)
# One slice of one way: calls of all callers together. Direct and relayed slices take turns.
_SLICE = {VERSION: 400, LIST: 80}
_CALLERS = (1, 16)
_WARM_UP_ROUNDS = 1

_NOTES = """\
Latency as the caller sees it, in ms. added: relayed minus direct, of the percentiles. CPU: of the shim's process alone
per relayed call, user and system. Callers, shim and runtime are each one process of Python on these CPUs: with 16
callers what is added is also the queue for them. The shim's log lines go to a file."""


class Series:
    """The samples of one way of one case."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.cpu = 0.0


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


async def run(between: Line, rounds: int) -> dict[tuple[str, int, str], Series]:
    """All cases, keyed by method, callers and way."""
    ways = {way: channel(socket) for way, socket in between.sockets.items()}
    try:
        await asyncio.wait_for(asyncio.gather(*(each.channel_ready() for each in ways.values())), START_SECONDS)
        cases = {(method, callers, way): Series() for method in SIZES for callers in _CALLERS for way in ways}
        for turn in range(-_WARM_UP_ROUNDS, rounds):
            for (method, callers, way), series in cases.items():
                before = between.cpu_seconds()
                latencies = await measure(ways[way], method, callers, _SLICE[method])
                if turn >= 0:
                    series.latencies += latencies
                    series.cpu += between.cpu_seconds() - before
        return cases
    finally:
        for each in ways.values():
            await each.close()


def rows(cases: dict[tuple[str, int, str], Series]) -> list[list[str]]:
    """One row for each size of answer and number of callers."""
    made = []
    for method, size in SIZES.items():
        for callers in _CALLERS:
            direct, relayed = cases[method, callers, DIRECT], cases[method, callers, RELAYED]
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


def single_calls(rounds: int) -> None:
    """Measure and print the calls of two sizes."""
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder, line(Path(folder)) as between:
        idle, _ = between.memory()
        cases = asyncio.run(run(between, rounds))
        time.sleep(1)
        after, highest = between.memory()
    heads = ["answer, callers", "p50 direct", "relayed", "added", "p99 direct", "relayed", "added", "CPU a call"]
    print(table(heads, rows(cases)), end="\n\n")
    calls = {method: rounds * _SLICE[method] for method in SIZES}
    print(f"Calls of each case and way: {calls[VERSION]} of 100 B, {calls[LIST]} of 1 MiB.")
    print(f"Resident memory of the shim: {idle:.1f} MiB idle, {after:.1f} MiB afterwards, {highest:.1f} MiB at most.")
    print(_NOTES, end="\n\n", flush=True)


def mixes(windows: int) -> None:
    """Measure and print what a kubelet calls."""
    played = [cri_mix.play(pods, windows) for pods in cri_mix.PODS]
    print(table(cri_mix.HEADS, [row for each in played for row in cri_mix.latency_rows(each)]), end="\n\n")
    print(table(cri_mix.SHARE_HEADS, [cri_mix.share_row(each) for each in played]), end="\n\n")
    print(cri_mix.NOTES)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.cri", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=8, help="counted slices of each case and way (8); 0: none")
    window = cri_mix.WINDOW_SECONDS
    parser.add_argument(
        "--windows", type=int, default=6, help=f"windows of {window} s of each mix and way (6); 0: no mixes"
    )
    options = parser.parse_args()
    if options.rounds < 0 or options.windows < 0:
        parser.error("--rounds and --windows are 0 or more")
    versions = [f"podwire-shim on Python {sys.version.split()[0]}", f"grpcio {grpc.__version__}"]
    print(header("bench.cri", versions), end="\n\n", flush=True)
    if options.rounds:
        single_calls(options.rounds)
    if options.windows:
        mixes(options.windows)


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    command(main)
