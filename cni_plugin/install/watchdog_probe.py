"""Does a CRI endpoint serve? One Version call, in the 90 bytes of HTTP/2 that it takes.

The answer has to come from the runtime behind the socket: accepting a connection, and even HTTP/2's own greeting, is
the work of the kernel and of threads that go on when a program hangs. grpc would cost more to import than all else of
a look together, so does `socket`; this file needs C modules only.
"""

import _socket
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM = ACK = 1
END_HEADERS = 4
PATH = b"/runtime.v1.RuntimeService/Version"
# gRPC over HTTP/2: a message is a flag, its length in 4 bytes, and the message, which has no fields here.
EMPTY_MESSAGE = bytes(5)


def serves(path: str, seconds: float) -> bool:
    """Whether a CRI server at this socket answers Version within `seconds` with anything but an error."""
    deadline = time.monotonic() + seconds
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(PREFACE + _frame(SETTINGS) + _headers() + _frame(DATA, END_STREAM, 1, EMPTY_MESSAGE))
        return _answered(connection, deadline)
    except OSError:
        return False
    finally:
        connection.close()


def _answered(connection: "_socket.socket", deadline: float) -> bool:
    while True:
        kind, flags, stream, payload = _read(connection, deadline)
        if stream == 1 and kind == DATA and payload:
            return True
        # An error comes as headers that end the stream.
        if kind == GOAWAY or (stream == 1 and (kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM))):
            return False
        if kind in (SETTINGS, PING) and not flags & ACK:
            connection.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))


def _read(connection: "_socket.socket", deadline: float) -> tuple[int, int, int, bytes]:
    head = _exactly(connection, 9, deadline)
    payload = _exactly(connection, int.from_bytes(head[:3], "big"), deadline)
    return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload


def _exactly(connection: "_socket.socket", length: int, deadline: float) -> bytes:
    read = b""
    while len(read) < length:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        some = connection.recv(length - len(read))
        if not some:
            raise ConnectionResetError
        read += some
    return read


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """RFC 9113, section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _headers() -> bytes:
    """RFC 7541: `:method: POST` and `:scheme: http` are in its table, the others stand as they are."""
    block = b"\x83\x86\x04" + _text(PATH) + b"\x01" + _text(b"localhost")
    block += b"\x0f\x10" + _text(b"application/grpc") + b"\x00" + _text(b"te") + _text(b"trailers")
    return _frame(HEADERS, END_HEADERS, 1, block)


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value
