"""Netlink as such: messages as bytes, one socket, one `sendmsg` for a batch.

Numbers are those of linux/netlink.h. Every builder of a message returns it whole with sequence number 0;
`Socket.send` numbers them.
"""

import _socket
import errno
import posix
from _struct import Struct

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3

_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_I32 = Struct("=i")

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLM_F_ACK_TLVS, _NLMSGERR_ATTR_MSG = 0x200, 1
# The kernel answers before `sendmsg` returns; a wait means that it will not.
_ANSWER_SECONDS = 10
_ANSWER_TIME = Struct("=qq").pack(_ANSWER_SECONDS, 0)
# The tables changed between two parts of a dump: entries may be missing or stand twice.
_NLM_F_DUMP_INTR, _DUMP_ATTEMPTS = 0x10, 5


class Refusal(Exception):
    """The kernel answered a request with an error: `errno`, its extended text, and the request's position."""

    def __init__(self, code: int, text: str, position: int) -> None:
        reason = posix.strerror(code)
        super().__init__(f"{reason} ({text})" if text else reason)
        self.errno = code
        self.position = position


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    size = 4 + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One netlink request."""
    return _HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


def attributes(body: bytes, offset: int) -> "dict[int, bytes]":
    """The attributes of a message body from `offset` on; nested ones stay bytes."""
    found = {}
    while offset + 4 <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if size < 4:
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + size]
        offset += size + (-size % 4)
    return found


class Socket:
    """A netlink socket bound to the namespace that the process was in when it was opened."""

    def __init__(self, protocol: int) -> None:
        self.raw = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        self.raw.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _ANSWER_TIME)
        self.raw.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self.raw.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; twice is once."""
        self.raw.close()

    def send(self, messages: "list[bytes]") -> "tuple[int, int]":
        """Send the messages in one `sendmsg`; returns the first and last sequence number given to them."""
        first = self._sequence + 1
        parts = []
        for each in messages:
            self._sequence += 1
            length, kind, flags, _, _ = _HEADER.unpack_from(each)
            parts.append(_HEADER.pack(length, kind, flags, self._sequence, 0))
            parts.append(each[16:])
        self.raw.sendmsg(parts)
        return first, self._sequence

    def batch(self, messages: "list[bytes]") -> None:
        """Run requests in order; the kernel goes on after a failure, and the first one is raised as Refusal.

        Only the last asks for an acknowledgement: errors are answered always, and the kernel has done all of it
        when `sendmsg` returns.
        """
        length, kind, flags, _, _ = _HEADER.unpack_from(messages[-1])
        acknowledged = _HEADER.pack(length, kind, flags | NLM_F_ACK, 0, 0) + messages[-1][16:]
        self.settle(*self.send([*messages[:-1], acknowledged]))

    def settle(self, first: int, last: int, fatal: int = 0) -> None:
        """Read answers until `last` is acknowledged; raise the first error, at once when it is that of `fatal`."""
        fault = None
        while True:
            for kind, sequence, flags, body in self._receive():
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                fault = fault or refusal(body, flags, sequence - first)
                if sequence == last or (fault and sequence == fatal):
                    if fault:
                        raise fault
                    return

    def ask(self, request: bytes) -> bytes:
        """The body of the one answer to a request. Raises Refusal (ENODEV, ENETUNREACH, ESRCH, ...)."""
        first, _ = self.send([request])
        while True:
            for kind, sequence, flags, body in self._receive():
                if sequence != first:
                    continue
                if kind != NLMSG_ERROR:
                    return body
                fault = refusal(body, flags, 0)
                if fault:
                    raise fault

    def dump(self, request: bytes) -> "list[bytes]":
        """The bodies of all answers to a request made with NLM_F_DUMP. Raises Refusal, also for half a dump."""
        for _ in range(_DUMP_ATTEMPTS):
            bodies, is_whole = self._dump(request)
            if is_whole:
                return bodies
        raise Refusal(errno.EINTR, f"what was dumped changed meanwhile, {_DUMP_ATTEMPTS} times", 0)

    def _dump(self, request: bytes) -> "tuple[list[bytes], bool]":
        first, _ = self.send([request])
        bodies: list[bytes] = []
        is_whole = True
        while True:
            for kind, sequence, flags, body in self._receive():
                if sequence != first:
                    continue
                is_whole = is_whole and not flags & _NLM_F_DUMP_INTR
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    # A dump that fails ends with its error in NLMSG_DONE, after what was read until then.
                    fault = refusal(body[:4], 0, 0) if len(body) >= 4 else None
                    if fault:
                        raise fault
                    return bodies, is_whole
                bodies.append(body)

    def receive(self) -> bytes:
        """One datagram of answers. Raises Refusal with ETIMEDOUT when none comes."""
        try:
            # The kernel cuts dumps at 32 KiB; a larger buffer would be mapped and unmapped at every answer.
            return self.raw.recv(1 << 16)
        except BlockingIOError:
            raise Refusal(errno.ETIMEDOUT, f"no answer within {_ANSWER_SECONDS} s", 0) from None

    def _receive(self) -> "list[tuple[int, int, int, bytes]]":
        data = self.receive()
        received = []
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            received.append((kind, sequence, flags, data[offset + 16 : offset + length]))
            offset += length + (-length % 4)
        return received


def refusal(body: bytes, flags: int, position: int) -> "Refusal | None":
    """The error in an NLMSG_ERROR body, or None for an acknowledgement."""
    code: int = -_I32.unpack_from(body)[0]
    if code == 0:
        return None
    text = ""
    if flags & _NLM_F_ACK_TLVS:
        # NETLINK_CAP_ACK leaves errno and the header of the failed request before the attributes.
        text = attributes(body, 20).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return Refusal(code, text, position)
