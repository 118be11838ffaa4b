"""Traffic of the proofs: HTTP with nc, and a server that tells who it sees."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.netns import Daemon, Namespace
from tests.lab.node import Node
from tests.lab.waiting import wait_until

# One line per connection: the peer's address. Answers as HTTP, so that one client serves all proofs.
_PEER_SERVER = """\
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection, peer = server.accept()
    with connection:
        connection.settimeout(5)
        try:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + peer[0].encode() + b"\\n")
        except OSError:
            pass
"""


def http_script(host: str, port: int) -> str:
    """A shell line that prints the whole answer to a GET. busybox's static wget crashes in getaddrinfo; nc does not."""
    # $(...) would eat the bytes; `busybox nc` and `nc` are the same applet inside and outside of a pod.
    return f"printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {host} {port} 2>&1"


def http_get(run: Callable[[str], str], host: str, port: int, seconds: float = 10) -> str:
    """The answer to a GET, asked by `run(script)`; tried again while the server is starting."""
    last = ""

    def answered() -> bool:
        nonlocal last
        last = run(http_script(host, port))
        return last.startswith("HTTP/1")

    try:
        wait_until(answered, seconds, "an answer")
    except AssertionError:
        return last or "no answer"
    return last


def get_from_container(node: Node, container: str, host: str, port: int) -> str:
    """The answer to a GET from inside a container, through ExecSync."""
    return http_get(lambda script: node.cri.execute(container, ["sh", "-c", script], "exec")[1], host, port)


def get_from_namespace(namespace: Namespace, host: str, port: int, seconds: float = 10) -> str:
    """The answer to a GET from a namespace: the node's own, or the outside's."""
    return http_get(
        lambda script: namespace.run(["busybox", "sh", "-c", script], check=False).stdout, host, port, seconds
    )


class PeerServer:
    """In a namespace: answers each connection with the address it comes from."""

    def __init__(self, namespace: Namespace, address: str, port: int, log: Path) -> None:
        self._namespace = namespace
        self._port = port
        self._command = [sys.executable, "-I", "-c", _PEER_SERVER, address, str(port)]
        self._log = log
        self._daemon: Daemon | None = None

    def __enter__(self) -> Self:
        self._daemon = self._namespace.start(self._command, self._log)
        wait_until(self._listens, 10, "the outside's server to listen", hint=self._daemon.tail)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon is not None:
            self._daemon.kill(signal.SIGKILL)

    def _listens(self) -> bool:
        # State 0A is LISTEN; the port stands in hexadecimal after the local address.
        table = Path(f"/proc/{self._namespace.pid}/net/tcp").read_text().splitlines()[1:]
        return any(row.split()[1].endswith(f":{self._port:04X}") and row.split()[3] == "0A" for row in table)
