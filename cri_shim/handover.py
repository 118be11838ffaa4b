"""From one instance to the next without losing a call.

The successor starts beside its predecessor, connects to the upstream, takes the path by rename and tells systemd
that it is the main process now. The predecessor sees its path taken and serves on for those connected to it. A
server that grpc-core shuts down refuses calls that cross its GOAWAY, so they are moved by age instead: every
connection gets a GOAWAY of the graceful kind when it is old enough. Only then the predecessor drains.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cri_shim.config import Config
from cri_shim.endpoint import Claim
from cri_shim.errors import ListenError
from cri_shim.log import Log

if TYPE_CHECKING:
    # grpcio must not be there yet when a process forks.
    from cri_shim.upstream import Upstream

LOOK_SECONDS = 0.2
# What a successor gives the upstream to answer it, before it leaves everything to its predecessor.
UPSTREAM_SECONDS = 5.0
# grpc-core spreads connection ages by a tenth; the second is for connections that were just being made.
AGE_SPREAD, AGE_MARGIN_SECONDS = 1.1, 1.0
# One answer of 20 MB for each of 16 callers is no leak: only what stays counts.
CHECKS_ABOVE = 3
FAILED = 2


def detach(environment: dict[str, str]) -> Callable[[], None]:
    """Go on in a process of its own, whose parent is init; returns there only, and before any thread exists.

    The process that was called waits: it exits 0 when the returned function is called, 2 when it never is.
    """
    serves, tell = os.pipe()
    launcher = os.getpid()
    child = os.fork()
    if child:
        os.close(tell)
        os.waitpid(child, 0)
        os._exit(0 if os.read(serves, 1) else FAILED)
    if os.fork():
        os._exit(0)
    os.setsid()
    os.close(serves)
    # systemd named the process that it started; this one answers in its stead.
    if environment.get("WATCHDOG_PID") == str(launcher):
        environment["WATCHDOG_PID"] = str(os.getpid())

    def served() -> None:
        os.write(tell, b"1")
        os.close(tell)

    return served


async def reachable(upstream: Upstream, config: Config, stop: asyncio.Event) -> None:
    """Wait until the upstream answers; ListenError when it does not: a predecessor that serves is worth more."""
    connected, stopped = asyncio.create_task(upstream.connected()), asyncio.create_task(stop.wait())
    await asyncio.wait([connected, stopped], timeout=UPSTREAM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    told, answers = stopped.done(), connected.done()
    for task in (connected, stopped):
        task.cancel()
    if told or not answers:
        reason = (
            "told to stop before it took over"
            if told
            else f"the upstream {config.upstream} did not answer within {UPSTREAM_SECONDS:g} s"
        )
        raise ListenError(f"not replacing the instance on {config.listen}: {reason}; the running one goes on serving")


async def superseded(claim: Claim) -> None:
    """Wait until another instance's socket is at our path."""
    while not claim.superseded():  # noqa: ASYNC110 (another process brings it about)
        await asyncio.sleep(LOOK_SECONDS)


async def linger(config: Config, stop: asyncio.Event) -> None:
    """Serve on until every connection has been asked to go elsewhere, or until told to stop."""
    seconds = config.handover_connection_seconds * AGE_SPREAD + AGE_MARGIN_SECONDS
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass


async def renew(config: Config, claim: Claim, log: Log) -> None:
    """Start a successor whenever this process has stayed above its memory limit, until one has taken over."""
    limit, above = config.handover_memory_mb << 20, 0
    while limit and not claim.superseded():
        await asyncio.sleep(config.handover_memory_seconds)
        used = resident()
        above = above + 1 if used > limit else 0
        if above == CHECKS_ABOVE:
            log.event("memory-limit", resident_mb=used >> 20, limit_mb=config.handover_memory_mb)
            code = await _successor()
            if code:
                log.event("handover-failed", exit_code=code)
            above = 0


def resident() -> int:
    """Bytes of this process's memory that are in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _successor() -> int:
    environment = {key: value for key, value in os.environ.items() if key != "WATCHDOG_PID"}
    argv = [sys.executable, *sys.orig_argv[1:]]
    argv += [option for option in ("--replace", "--detach") if option not in argv]
    process = await asyncio.create_subprocess_exec(*argv, env=environment)
    return await process.wait()
