"""Throw-away namespaces, held by a process: no file in /run/netns, and nothing is left when the process is killed.

A `Namespace` with `node=True` has a process and a mount namespace as well, so it is what a kind node is: killing its
first process ends every daemon, pod, mount and link of the node, in whatever state they are. With `mounts=True` it has
a mount namespace alone: processes keep their numbers, and folders of the machine can be covered with others.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.images import pause_binary
from tests.lab.waiting import wait_until

# unshare(1) and setpriv(1) are util-linux; the absolute path survives an emptied PATH.
_TOOLS = {tool: shutil.which(tool) or tool for tool in ("setpriv", "unshare", "nsenter")}


class Place:
    """Where commands can be run: everything goes through `command`, which subclasses define."""

    def __init__(self) -> None:
        self._daemons: list[Daemon] = []

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The argument vector that runs `argv` inside."""
        raise NotImplementedError

    def run(
        self, argv: Sequence[str | Path], *, check: bool = True, input: str | None = None, timeout: float = 20
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end inside; output is captured, and part of the error when `check` fails."""
        done = subprocess.run(
            self.command(argv), capture_output=True, text=True, input=input, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(map(str, argv))}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"
            )
        return done

    def start(self, argv: Sequence[str | Path], log: Path, env: dict[str, str] | None = None) -> "Daemon":
        """Start a daemon inside, its output appended to `log`."""
        daemon = Daemon(self, argv, log, env)
        self._daemons.append(daemon)
        return daemon

    def close(self) -> None:
        """Kill the daemons. Twice is fine."""
        for daemon in self._daemons:
            daemon.kill()


class Named(Place):
    """A network namespace with a name below /run/netns of a namespace that has its own mounts, as runtimes make them.

    It lives until `vanish()`, or until the mounts of its owner end.
    """

    def __init__(self, owner: "Namespace", name: str) -> None:
        super().__init__()
        self.name, self._owner = name, owner
        self.path = f"/run/netns/{name}"

    @classmethod
    def make(cls, owner: "Namespace", names: Sequence[str]) -> list[Self]:
        """Several at once, their loopback left down as a runtime leaves it."""
        owner.run(["ip", "-batch", "-"], input="".join(f"netns add {name}\n" for name in names))
        return [cls(owner, name) for name in names]

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The argument vector that runs `argv` inside."""
        return [_TOOLS["nsenter"], f"--net=/proc/{self._owner.pid}/root{self.path}", "--", *map(str, argv)]

    def vanish(self) -> None:
        """Remove the name; without processes inside, the kernel takes the namespace down soon after."""
        self.close()
        self._owner.run(["ip", "netns", "delete", self.name])


class Namespace(Place):
    """A network namespace (with `node=True` also mount and pid) that exists from construction until `close()`.

    With `detached=False` the kernel kills the holder when this process dies, even by SIGKILL.
    """

    def __init__(self, *, node: bool = False, mounts: bool = False, detached: bool = False) -> None:
        super().__init__()
        command: list[str] = [] if detached else [_TOOLS["setpriv"], "--pdeathsig", "KILL"]
        command += [_TOOLS["unshare"], "--net"]
        if node:
            # slave: later mounts of the machine are seen in the node, none of the node's on the machine.
            command += ["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
        elif mounts:
            command += ["--mount", "--propagation", "private"]
        # A session of its own: Ctrl-C on the terminal must reach us alone, who clean up in order.
        self._holder = subprocess.Popen(
            [*command, str(pause_binary())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._flags = ["-n", "-m", "-p"] if node else ["-n", "-m"] if mounts else ["-n"]
        try:
            self.pid = wait_until(lambda: self._ready_pid(node), 10, "a namespace holder to start")
            self.run(["ip", "link", "set", "lo", "up"])
        except BaseException:
            self._holder.kill()
            self._holder.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ready_pid(self, node: bool) -> int | None:
        if self._holder.poll() is not None:
            raise RuntimeError(f"unshare ended with code {self._holder.returncode}: root with CAP_SYS_ADMIN is needed")
        pids = children(self._holder.pid) if node else [self._holder.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe") == str(pause_binary().resolve()):
                    return pid
        return None

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The argument vector that runs `argv` inside."""
        return [_TOOLS["nsenter"], "-t", str(self.pid), *self._flags, "--", *map(str, argv)]

    def close(self) -> None:
        """Kill daemons and holder and wait: for a node until every process in it is gone. Twice is fine."""
        super().close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._holder.wait(timeout=30)


class Daemon:
    """A process started inside a namespace; `pid` is its number on the machine, not in the namespace."""

    def __init__(self, namespace: Place, argv: Sequence[str | Path], log: Path, env: dict[str, str] | None) -> None:
        self.log = log
        self.name = Path(argv[0]).name
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                namespace.command(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        if "-p" in namespace.command([]):
            # Only a child of nsenter is in the process namespace; nsenter waits for it and ends with its status.
            pid = wait_until(self._only_child, 10, f"{self.name} to start")
        else:
            pid = self._process.pid
        self.pid = pid

    def _only_child(self) -> int | None:
        found = children(self._process.pid)
        if not found and self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended at once: {self.tail()}")
        return found[0] if found else None

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self, number: signal.Signals = signal.SIGKILL, timeout: float = 15) -> None:
        """Send the signal and wait for the end; SIGKILL follows when that takes longer than `timeout`."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        try:
            self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._process.wait(timeout=timeout)

    def tail(self, lines: int = 15) -> str:
        """The last lines it wrote, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def children(pid: int) -> list[int]:
    """Direct children, by reading every stat: /proc/PID/task/TID/children is a kernel option."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The command name may hold spaces and brackets; what follows its last bracket is fixed.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


def started(pid: int) -> str | None:
    """Start time in ticks since boot; None for a process that is gone, or dead and only not yet reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def connect(
    left: Namespace, left_name: str, left_address: str, right: Namespace, right_name: str, right_address: str
) -> None:
    """A veth between two namespaces, born in them: the machine's own namespace never sees a link."""
    # The kernel reads the peer's pid in the caller's process namespace: enter the network namespace alone.
    enter = [_TOOLS["nsenter"], "-t", str(left.pid), "-n", "--"]
    add = ["ip", "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", str(right.pid)]
    subprocess.run([*enter, *add], check=True, capture_output=True, text=True)
    for namespace, name, address in ((left, left_name, left_address), (right, right_name, right_address)):
        # No IPv6 link-local address: it would appear a second or two later, when the kernel has probed for it.
        namespace.run(["ip", "link", "set", name, "addrgenmode", "none"], check=False)
        namespace.run(["ip", "address", "add", address, "dev", name])
        namespace.run(["ip", "link", "set", name, "up"])
