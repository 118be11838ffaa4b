"""Where an endpoint lives: the node whose processes, files and network a case looks at from outside of the pods.

Without a process id it is the machine itself. With one, commands run in the network, mount and process namespaces of
that process, and connections start in its network namespace.
"""

import ctypes
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Site:
    """One node. `scratch` is a folder with the same path for the tests and for the runtime.

    `restart` restarts the runtime and returns when it answers again, `load` brings a docker-archive into it; None where
    the endpoint's owner gave no command for it. `cgroup_parent` is the parent of all pods, "" for the runtime's own.
    """

    scratch: Path
    pid: int | None = None
    cgroup_parent: str = ""
    restart: Callable[[], None] | None = None
    load: Callable[[Path], None] | None = None

    def run(self, argv: Sequence[str | Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the machine on the node; a failure is a RuntimeError with what it said."""
        enter = [] if self.pid is None else ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "--"]
        done = subprocess.run([*enter, *map(str, argv)], capture_output=True, text=True, timeout=20, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{shlex.join(map(str, argv))}: exit code {done.returncode}: {done.stderr.strip()}")
        return done

    def namespace(self, pid: int, kind: str) -> str:
        """The namespace of a process of the node, as `net:[4026531840]`."""
        return self.run(["readlink", f"/proc/{pid}/ns/{kind}"]).stdout.strip()

    def own_namespace(self, kind: str) -> str:
        """The node's own namespace of this kind."""
        return os.readlink(f"/proc/{self.pid or 'self'}/ns/{kind}")

    def connect(self, host: str, port: int, timeout: float = 20) -> socket.socket:
        """A TCP connection that starts in the node's network namespace."""
        made: list[socket.socket | BaseException] = []

        def attempt() -> None:
            try:
                if self.pid is not None:
                    _enter_network_namespace(self.pid)
                made.append(socket.create_connection((host, port), timeout))
            except BaseException as error:  # noqa: BLE001 (raised again below, in the caller's thread)
                made.append(error)

        # A namespace is entered by one thread alone; a socket stays in the namespace where it was made.
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]


def _enter_network_namespace(pid: int) -> None:
    # os.setns comes with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net", "rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns to the network namespace of process {pid}: {os.strerror(number)}")
