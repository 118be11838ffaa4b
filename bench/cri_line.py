"""The scripted runtime and the shim in front of it, as processes in one folder, and what is read of the shim's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpc import aio

from bench.cri_upstream import LIMITS

START_SECONDS = 15
_CPUCLOCK_SCHED = 2


@dataclass(frozen=True)
class Line:
    """Two sockets that answer alike, and the shim between them."""

    sockets: dict[str, Path]
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time of the shim with all its threads, to the nanosecond (clock_getcpuclockid(3))."""
        return time.clock_gettime(~self.pid << 3 | _CPUCLOCK_SCHED)

    def memory(self) -> tuple[float, float]:
        """VmRSS and VmHWM of the shim, in MiB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        resident, highest = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return resident, highest


DIRECT, RELAYED = "direct", "relayed"


@contextlib.contextmanager
def line(place: Path, pods: int | None = None) -> Iterator[Line]:
    """Both processes, new ones with sockets and logs in `place`, until the block ends.

    The runtime answers as that of a node with `pods` pods, or with bytes of the fixed sizes.
    """
    sockets = {DIRECT: place / "runtime.sock", RELAYED: place / "shim.sock"}
    log = place / "shim.log"
    upstream = ["-m", "bench.cri_upstream", str(sockets[DIRECT]), *([] if pods is None else [str(pods)])]
    shim = ["-m", "cri_shim", "--listen", f"unix://{sockets[RELAYED]}", "--upstream", f"unix://{sockets[DIRECT]}"]
    with _process(upstream, place / "runtime.log"), _process(shim, log) as pid:
        deadline = time.monotonic() + START_SECONDS
        while not all(socket.exists() for socket in sockets.values()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no socket after {START_SECONDS} s; the shim said: {log.read_text()}")
            time.sleep(0.05)
        time.sleep(1)
        yield Line(sockets, pid)


@contextlib.contextmanager
def _process(argv: Sequence[str], log: Path) -> Iterator[int]:
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
