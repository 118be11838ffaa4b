"""What both benches share: a sealed place to run in, processes measured whole, and tables.

`seal()` gives this process a network and a mount namespace of its own with an empty /run. Links, rules, sysctls of
the network and files under /run made from then on are its alone, and the kernel takes them away with the process,
however it ends.
"""

import ctypes
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_PR_SET_CHILD_SUBREAPER = 36


def seal() -> None:
    """Enter new network and mount namespaces, and become the parent of orphans below. Needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) or libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise SystemExit(f"making namespaces: {os.strerror(number)}; run this as root")
    tool("mount", "--make-rslave", "/")
    tool("mount", "-t", "tmpfs", "-o", "mode=755", "bench", "/run")
    tool("ip", "link", "set", "lo", "up")


def tool(*argv: str) -> str:
    """Run a command to its end and return its output; its words are in the error when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@dataclass(frozen=True)
class Exec:
    """One process to be: executable and arguments, environment, and all of its stdin (at most a pipe's 64 KiB)."""

    argv: list[str]
    env: Mapping[str, str]
    stdin: bytes


@dataclass
class Measured:
    """One process that ended, in seconds: `cpu` is its own with that of descendants which it waited for."""

    wall: float
    cpu: float
    output: bytes


class Running:
    """A process that has been spawned with its stdin ready and its stdout and stderr on one pipe."""

    def __init__(self, what: Exec) -> None:
        source, feed = os.pipe()
        os.write(feed, what.stdin)
        os.close(feed)
        self._report, answer = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_DUP2, answer, 1),
            (os.POSIX_SPAWN_DUP2, answer, 2),
        ]
        self._what = what
        self.began = time.perf_counter()
        self._pid = os.posix_spawn(what.argv[0], what.argv, what.env, file_actions=actions)
        os.close(source)
        os.close(answer)

    def finish(self) -> Measured:
        """Wait as runtimes do, until the pipe is closed by all who hold it and the process has ended.

        Raises RuntimeError with what it wrote when its exit code is not 0.
        """
        output = b""
        while chunk := os.read(self._report, 1 << 16):
            output += chunk
        _, status, usage = os.wait4(self._pid, 0)
        wall = time.perf_counter() - self.began
        os.close(self._report)
        if status:
            words = output.decode(errors="replace").strip()
            raise RuntimeError(f"{' '.join(self._what.argv)}: exit code {os.waitstatus_to_exitcode(status)}: {words}")
        return Measured(wall, usage.ru_utime + usage.ru_stime, output)


def settle() -> float:
    """Wait until every orphan has ended; returns the processor seconds that they took. Needs `seal()` before."""
    cpu = 0.0
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return cpu
        cpu += usage.ru_utime + usage.ru_stime


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; the median for 0.5."""
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[math.ceil(share * len(values)) - 1]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as text: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join((first, *rest)) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join((line(heads), line(rule), *(line(row) for row in rows)))


def header(module: str, versions: Sequence[str]) -> str:
    """Where and when a table was measured, and by which command."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return "\n".join(
        (
            f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, Linux {platform.release()}, "
            f"{os.cpu_count()} CPUs ({model}), load {load:.2f} before the run",
            ", ".join(versions),
            "command: " + " ".join(("python", "-m", module, *sys.argv[1:])),
        )
    )


def command(main: Callable[[], None]) -> None:
    """Run a bench as a command: Ctrl-C and SIGTERM clean up and end it, a refused tool or plugin with its words."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as fault:
        sys.exit(str(fault))
