"""Netlink as such: attributes, errors, and a socket whose kernel is the other end of a pair of sockets."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from cni_plugin import netlink
from cni_plugin.netlink import NLMSG_DONE, NLMSG_ERROR, Refusal, message

POD_MAC = bytes.fromhex("0a580a010005")
DATA, INTERRUPTED = 24, 0x10


@pytest.mark.parametrize("size", range(9))
def test_attributes_are_padded_to_four_bytes_and_read_back(size: int) -> None:
    raw = netlink.attribute(5, b"x" * size) + netlink.attribute(6 | 0x8000, b"y")
    assert len(raw) % 4 == 0
    assert netlink.attributes(b"head" + raw, 4) == {5: b"x" * size, 6: b"y"}


@pytest.mark.parametrize("raw", [b"", b"\1\0", b"\0\0\0\0\0\0\0\0", b"\3\0\1\0"], ids=["none", "half", "zero", "three"])
def test_torn_attributes_end_the_reading(raw: bytes) -> None:
    assert netlink.attributes(raw, 0) == {}


def test_an_acknowledgement_is_no_refusal() -> None:
    assert netlink.refusal(bytes(20), 0x100, 0) is None


def test_a_refusal_carries_errno_text_and_position() -> None:
    body = struct.pack("=i", -errno.EEXIST) + bytes(16) + netlink.attribute(1, b"File is there\0")
    plain, told = netlink.refusal(body[:20], 0x100, 2), netlink.refusal(body, 0x300, 3)
    assert plain is not None
    assert told is not None
    assert (plain.errno, plain.position, str(plain)) == (errno.EEXIST, 2, "File exists")
    assert (told.errno, told.position, str(told)) == (errno.EEXIST, 3, "File exists (File is there)")


class Kernel:
    """The other end of a netlink socket: answers are laid ready, in the order in which they will be read."""

    def __init__(self) -> None:
        self.ours = netlink.Socket(0)
        self.ours.close()
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end = theirs
        self.ours.raw = mine
        mine.settimeout(5)

    def answer(self, *messages: tuple[int, int, int, bytes]) -> None:
        """One datagram of messages: (type, sequence, flags, body)."""
        parts = []
        for kind, sequence, flags, body in messages:
            raw = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body
            parts.append(raw + b"\0" * (-len(raw) % 4))
        self._end.send(b"".join(parts))

    def asked(self) -> list[tuple[int, int, int]]:
        """Type, flags and sequence number of each message of the next datagram."""
        data, found = self._end.recv(1 << 16), []
        while data:
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
            found.append((kind, flags, sequence))
            data = data[length:]
        return found

    def close(self) -> None:
        self._end.close()
        self.ours.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


def error(sequence: int, code: int) -> tuple[int, int, int, bytes]:
    return NLMSG_ERROR, sequence, 0x100, struct.pack("=i", -code) + bytes(16)


def done(sequence: int, code: int = 0, flags: int = 2) -> tuple[int, int, int, bytes]:
    return NLMSG_DONE, sequence, flags, struct.pack("=i", -code)


REQUEST = message(DATA, 0, b"body")


def test_a_batch_numbers_its_messages_and_asks_for_one_acknowledgement(kernel: Kernel) -> None:
    kernel.answer(error(3, 0))
    kernel.ours.batch([message(kind, 0x600, b"") for kind in (16, 20, 24)])
    assert kernel.asked() == [(16, 0x601, 1), (20, 0x601, 2), (24, 0x605, 3)]
    kernel.answer(error(4, 0))
    kernel.ours.batch([REQUEST])
    assert kernel.asked() == [(DATA, 0x5, 4)]


def test_the_first_of_several_errors_is_raised_when_all_are_read(kernel: Kernel) -> None:
    kernel.answer(error(2, errno.EEXIST), error(3, errno.ENODEV))
    kernel.answer(error(4, 0))
    with pytest.raises(Refusal, match="File exists") as caught:
        kernel.ours.batch([REQUEST] * 4)
    assert (caught.value.errno, caught.value.position) == (errno.EEXIST, 1)
    kernel.answer((DATA, 5, 0, b"next"))
    assert kernel.ours.ask(REQUEST) == b"next"


def test_an_error_of_the_last_message_is_its_acknowledgement(kernel: Kernel) -> None:
    kernel.answer(error(1, errno.EINVAL))
    with pytest.raises(Refusal, match="Invalid argument"):
        kernel.ours.batch([REQUEST])


def test_answers_to_earlier_requests_are_passed_over(kernel: Kernel) -> None:
    kernel.ours.send([REQUEST])
    kernel.answer((DATA, 1, 0, b"late"), error(1, errno.EPERM), (DATA, 2, 0, b"mine"))
    assert kernel.ours.ask(REQUEST) == b"mine"


def test_a_question_that_is_refused_raises(kernel: Kernel) -> None:
    kernel.answer(error(1, errno.ENODEV))
    with pytest.raises(Refusal, match="No such device"):
        kernel.ours.ask(REQUEST)


def test_a_dump_is_all_its_parts(kernel: Kernel) -> None:
    kernel.answer((DATA, 1, 2, b"one"), (DATA, 1, 2, b"two "))
    kernel.answer((DATA, 9, 2, b"others"), (DATA, 1, 2, b"three"))
    kernel.answer(done(1))
    assert kernel.ours.dump(REQUEST) == [b"one", b"two ", b"three"]


@pytest.mark.parametrize("end", [error(1, errno.ENODEV), done(1, errno.ENODEV)], ids=["at once", "in its end"])
def test_a_dump_that_fails_is_no_short_dump(kernel: Kernel, end: tuple[int, int, int, bytes]) -> None:
    kernel.answer((DATA, 1, 2, b"one"))
    kernel.answer(end)
    with pytest.raises(Refusal, match="No such device"):
        kernel.ours.dump(REQUEST)


def test_a_dump_during_which_the_tables_changed_is_made_again(kernel: Kernel) -> None:
    kernel.answer((DATA, 1, 2, b"one"), (DATA, 1, 2 | INTERRUPTED, b"one"))
    kernel.answer(done(1))
    kernel.answer((DATA, 2, 2, b"one"), done(2, flags=2 | INTERRUPTED))
    kernel.answer((DATA, 3, 2, b"one"), (DATA, 3, 2, b"two"), done(3))
    assert kernel.ours.dump(REQUEST) == [b"one", b"two"]


def test_tables_that_never_stand_still_are_an_error(kernel: Kernel) -> None:
    for sequence in range(1, 6):
        kernel.answer((DATA, sequence, 2, b"one"), done(sequence, flags=2 | INTERRUPTED))
    with pytest.raises(Refusal, match="changed meanwhile, 5 times"):
        kernel.ours.dump(REQUEST)
