"""A client of the URLs that Exec, Attach and PortForward answer with: WebSocket, as RFC 6455 has it.

Kubernetes puts channels into it (subprotocol v4.channel.k8s.io): the first byte of each message is the channel's
number. For exec and attach these are stdin, stdout, stderr, an error channel with the outcome as JSON, and the size of
the terminal; for port-forward two per port, data and error, which begin with the port's number.
"""

import base64
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.conformance.cri.site import Site

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, OUTCOME, RESIZE = range(5)
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10


class Refused(Exception):
    """The server did not switch protocols; `code` is its HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"HTTP {code}: {text}")
        self.code = code


@dataclass
class Stream:
    """One connection. `received` has all bytes of each channel so far."""

    site: Site
    url: str
    received: dict[int, bytes] = field(default_factory=dict)
    ended: bool = False

    def __enter__(self) -> Self:
        parts = urlsplit(self.url)
        assert parts.hostname, self.url
        assert parts.port, self.url
        self._socket = self.site.connect(parts.hostname, parts.port)
        self._file = self._socket.makefile("rb")
        try:
            self._upgrade(parts.netloc, parts.path)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._file.close()
        self._socket.close()

    def _upgrade(self, host: str, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            f"Origin: http://{host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            f"Sec-WebSocket-Protocol: {PROTOCOL}",
        )
        self._socket.sendall("\r\n".join((*lines, "", "")).encode())
        status = self._file.readline().decode().split(" ", 2)
        headers = {}
        while (line := self._file.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if status[1] != "101":
            raise Refused(int(status[1]), self._file.read(int(headers.get("content-length", 0))).decode().strip())
        assert headers["sec-websocket-protocol"] == PROTOCOL, headers

    def send(self, channel: int, data: bytes) -> None:
        """One message to a channel."""
        self._frame(_BINARY, bytes((channel,)) + data)

    def _frame(self, kind: int, payload: bytes) -> None:
        length = len(payload)
        head = bytes((0x80 | kind,))
        # A client masks what it sends; the second byte's top bit says so.
        head += bytes((0x80 | length,)) if length < 126 else bytes((0x80 | 126,)) + struct.pack("!H", length)
        mask = os.urandom(4)
        self._socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    def receive(self) -> bool:
        """Take one message; False when the server has ended the connection."""
        head = self._file.read(2)
        if len(head) < 2:
            self.ended = True
            return False
        length = head[1] & 0x7F
        if length >= 126:
            form, size = ("!H", 2) if length == 126 else ("!Q", 8)
            (length,) = struct.unpack(form, self._file.read(size))
        payload = self._file.read(length)
        kind = head[0] & 0x0F
        if kind == _CLOSE:
            self.ended = True
            return False
        if kind == _PING:
            self._frame(_PONG, payload)
        elif payload:
            self.received[payload[0]] = self.received.get(payload[0], b"") + payload[1:]
        return True

    def until(self, condition: Callable[[dict[int, bytes]], object]) -> None:
        """Receive until the condition holds for what was received, or the server ends."""
        while not condition(self.received):
            if not self.receive():
                assert condition(self.received), f"the stream ended with {self.received}"

    def to_the_end(self) -> dict[int, bytes]:
        """Receive until the server ends the connection; what came, without empty messages."""
        while self.receive():
            pass
        return {channel: data for channel, data in self.received.items() if data}

    def outcome(self) -> tuple[str, int]:
        """Status and exit code, from the error channel."""
        told: dict[str, Any] = json.loads(self.received[OUTCOME])
        causes = told.get("details", {}).get("causes", [])
        codes = [int(each["message"]) for each in causes if each["reason"] == "ExitCode"]
        return told["status"], codes[0] if codes else 0
