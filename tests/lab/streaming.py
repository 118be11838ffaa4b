"""A WebSocket client for the URLs that Exec, Attach and PortForward answer with (RFC 6455, k8s.io/cri-streaming).

The runtime's streaming server listens on the node's own loopback, so the socket is made inside the node's network
namespace; it stays there, and the test that reads it does not have to.
"""

import base64
import contextlib
import ctypes
import json
import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.lab.netns import Namespace

# Channels of an exec or attach, the first byte of each message (k8s.io/apimachinery/pkg/util/remotecommand).
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
# Only v5 can close stdin alone; servers older than Kubernetes 1.29's know v4.
REMOTE_COMMAND = ("v5.channel.k8s.io", "v4.channel.k8s.io")
PORT_FORWARD = ("v4.channel.k8s.io",)
SECONDS = 20

_CLONE_NEWNET = 0x40000000
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


class StreamingError(Exception):
    """The server refused the upgrade, or broke the protocol; the message holds its words."""


def socket_in(namespace: Namespace, host: str, port: int) -> socket.socket:
    """A TCP connection made inside the namespace; a thread enters it, since a thread can leave by ending."""
    made: list[socket.socket | BaseException] = []

    def connect() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/proc/{namespace.pid}/ns/net", "rb") as place:
                if libc.setns(place.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
            made.append(socket.create_connection((host, port), timeout=SECONDS))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


class WebSocket:
    """One upgraded connection; messages are a channel and bytes. `protocol` is what the server chose."""

    def __init__(self, namespace: Namespace, url: str, protocols: tuple[str, ...]) -> None:
        parts = urlsplit(url)
        self._socket = socket_in(namespace, parts.hostname or "", parts.port or 80)
        self._reader = self._socket.makefile("rb")
        try:
            self.protocol = self._upgrade(
                f"{parts.path}{'?' if parts.query else ''}{parts.query}", parts.netloc, protocols
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        self._reader.close()
        self._socket.close()

    def send(self, channel: int, data: bytes) -> None:
        """One message on a channel."""
        self._frame(_BINARY, bytes((channel,)) + data)

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Messages in order, until the server closes; a silence of SECONDS raises TimeoutError."""
        message = b""
        while (frame := self._next()) is not None:
            final, opcode, payload = frame
            if opcode == _CLOSE:
                return
            if opcode == _PING:
                self._frame(_PONG, payload)
            elif opcode in (_CONTINUATION, _TEXT, _BINARY):
                message += payload
                if final:
                    if message:
                        yield message[0], message[1:]
                    message = b""

    def _upgrade(self, target: str, host: str, protocols: tuple[str, ...]) -> str:
        head = [
            *(f"GET {target} HTTP/1.1", f"Host: {host}"),
            *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Origin: http://{host}"),
            f"Sec-WebSocket-Key: {base64.b64encode(secrets.token_bytes(16)).decode()}",
            *(f"Sec-WebSocket-Protocol: {', '.join(protocols)}", "", ""),
        ]
        self._socket.sendall("\r\n".join(head).encode())
        status = self._reader.readline().decode().strip()
        headers = {}
        while line := self._reader.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if " 101 " not in f"{status} ":
            body = self._reader.read(int(headers.get("content-length", "0"))).decode(errors="replace")
            raise StreamingError(f"{status}: {body.strip()}")
        return headers.get("sec-websocket-protocol", "")

    def _frame(self, opcode: int, payload: bytes) -> None:
        # A client's frames are masked (RFC 6455, 5.3).
        size = len(payload)
        if size < 126:
            length = bytes((0x80 | size,))
        elif size < 1 << 16:
            length = struct.pack("!BH", 0x80 | 126, size)
        else:
            length = struct.pack("!BQ", 0x80 | 127, size)
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
        self._socket.sendall(bytes((0x80 | opcode,)) + length + mask + masked)

    def _next(self) -> tuple[bool, int, bytes] | None:
        try:
            head = self._reader.read(2)
            if len(head) < 2:
                return None
            size = head[1] & 0x7F
            if size >= 126:
                size = int.from_bytes(self._reader.read(2 if size == 126 else 8))
            return bool(head[0] & 0x80), head[0] & 0x0F, self._reader.read(size)
        except ConnectionError:
            return None


@dataclass
class Outcome:
    """What came of an exec or attach; `status` is the Status object of its end, {} when none came."""

    stdout: bytes = b""
    stderr: bytes = b""
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int | None:
        """0 for success, the command's code, None when the server told neither."""
        if self.status.get("status") == "Success":
            return 0
        for cause in self.status.get("details", {}).get("causes", []):
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        return None


def run(
    namespace: Namespace,
    url: str,
    stdin: bytes | None = None,
    until: bytes | None = None,
    size: tuple[int, int] | None = None,
) -> Outcome:
    """Use the URL of an Exec or Attach: send `stdin` and its end (None: no stdin), read to the end.

    With `until`, reading ends once stdout holds it. `size` is what a terminal is resized to first: width, height.
    """
    outcome = Outcome()
    with WebSocket(namespace, url, REMOTE_COMMAND) as stream:
        if size is not None:
            stream.send(RESIZE, json.dumps({"Width": size[0], "Height": size[1]}).encode())
        if stdin is not None:
            for start in range(0, len(stdin), 1 << 15):
                stream.send(STDIN, stdin[start : start + (1 << 15)])
            if stream.protocol == REMOTE_COMMAND[0] and until is None:
                stream.send(CLOSE, bytes((STDIN,)))
        for channel, data in stream.messages():
            if channel == STDOUT:
                outcome.stdout += data
            elif channel == STDERR:
                outcome.stderr += data
            elif channel == ERROR and data:
                outcome.status = json.loads(data)
            if until is not None and until in outcome.stdout:
                break
    return outcome


def forward(namespace: Namespace, url: str, port: int, request: bytes, until: bytes) -> bytes:
    """Use the URL of a PortForward: send `request` to the pod's `port`, read until the answer holds `until`.

    Raises StreamingError with the runtime's words when it cannot reach the port.
    """
    answer = b""
    with WebSocket(namespace, f"{url}?port={port}", PORT_FORWARD) as stream:
        # Each port has a data and an error channel; the first message of either repeats the port.
        opened: set[int] = set()
        stream.send(0, request)
        with contextlib.suppress(TimeoutError):
            for channel, data in stream.messages():
                if channel not in opened:
                    opened.add(channel)
                    if struct.unpack("<H", data[:2])[0] != port:
                        raise StreamingError(f"channel {channel} begins with {data[:8]!r}, not with port {port}")
                    data = data[2:]
                if channel == 1 and data:
                    raise StreamingError(data.decode(errors="replace"))
                answer += data
                if until in answer:
                    break
    return answer
