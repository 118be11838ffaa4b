"""Dumps: which datagrams are unpacked, where a dump ends, and what a kernel's rule looks like."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

import pytest

from cni_plugin import firewall, netfilter
from cni_plugin.netlink import Refusal, Socket, attribute

KIND = 0x0A03
MULTI, INTERRUPTED, ACK_TLVS = 0x2, 0x10, 0x200


def answer(body: bytes, kind: int = KIND, flags: int = MULTI, sequence: int = 1) -> bytes:
    """One message as the kernel sends it, padded."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + b"\0" * (-len(body) % 4)


DONE = answer(bytes(4), kind=3)


class Scripted(Socket):
    """A netlink socket whose kernel has answered already."""

    def __init__(self, *datagrams: bytes) -> None:
        self.raw, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.raw.settimeout(5)
        for datagram in datagrams:
            self.kernel.send(datagram)

    def send(self, messages: list[bytes]) -> tuple[int, int]:
        """Nobody reads it."""
        return 1, 1

    def close(self) -> None:
        """Close both ends."""
        self.raw.close()
        self.kernel.close()


def dumped(*datagrams: bytes, worth: Callable[[bytes], bool] = lambda _: True) -> list[bytes]:
    scripted = Scripted(*datagrams)
    try:
        return list(netfilter.dump(scripted, KIND, b"", worth))
    finally:
        scripted.close()


def test_every_answer_of_every_datagram_is_given() -> None:
    assert dumped(answer(b"one") + answer(b"four"), answer(b"five!"), DONE) == [b"one", b"four", b"five!"]


def test_datagrams_that_are_not_worth_it_are_skipped_whole() -> None:
    first, second = answer(b"aaaa") + answer(b"bbbb"), answer(b"cccc") + answer(b"dddd")
    assert dumped(first, second, DONE, worth=lambda data: b"cccc" in data) == [b"cccc", b"dddd"]


@pytest.mark.parametrize(
    "done",
    [
        DONE,
        answer(bytes(4) + attribute(1, b"a warning\0"), kind=3, flags=MULTI | ACK_TLVS),
        answer(bytes(4), kind=3, flags=MULTI | INTERRUPTED),
    ],
    ids=["plain", "with a text", "the table changed meanwhile"],
)
def test_an_end_behind_other_answers_ends_the_dump(done: bytes) -> None:
    # Were the datagram skipped, the next read would wait for ever; here it would time out.
    assert dumped(answer(b"aaaa") + done, worth=lambda _: False) == [b"aaaa"]


def test_answers_to_an_earlier_request_are_passed_over() -> None:
    old = answer(b"old!", sequence=0) + answer(bytes(4), kind=3, sequence=0)
    assert dumped(old, answer(b"new!"), DONE) == [b"new!"]


def test_a_refused_dump_is_raised() -> None:
    with pytest.raises(Refusal) as raised:
        dumped(answer(struct.pack("=i", -errno.EPERM) + bytes(16), kind=2, flags=0), worth=lambda _: False)
    assert raised.value.errno == errno.EPERM


def test_a_dump_that_fails_in_its_midst_is_raised_at_its_end() -> None:
    with pytest.raises(Refusal) as raised:
        dumped(answer(b"one!"), answer(struct.pack("=i", -errno.EMSGSIZE), kind=3))
    assert raised.value.errno == errno.EMSGSIZE


def test_a_dump_ends_when_it_is_late() -> None:
    scripted = Scripted(answer(b"one!"), answer(b"two!"), DONE)
    times = iter([False, True])
    try:
        assert list(netfilter.dump(scripted, KIND, b"", lambda _: True, lambda: next(times))) == [b"one!"]
    finally:
        scripted.close()


def expression(name: bytes, *data: bytes) -> bytes:
    """One element of NFTA_RULE_EXPRESSIONS: name 1, data 2."""
    return netfilter.nested(1, attribute(1, name + b"\0"), netfilter.nested(2, *data))


def verdict(code: int) -> bytes:
    """An immediate: destination register 1, data 2 > verdict 2 > code 1."""
    value = netfilter.nested(2, netfilter.nested(2, attribute(1, code.to_bytes(4, "big", signed=True))))
    return expression(b"immediate", attribute(1, bytes(4)), value)


COUNTER, LOG, COMPARE = expression(b"counter"), expression(b"log"), expression(b"cmp", attribute(1, bytes(4)))
DROP, ACCEPT, JUMP = verdict(0), verdict(1), verdict(-3)


@pytest.mark.parametrize(
    ("expressions", "refuses"),
    [
        pytest.param([DROP], True, id="drop"),
        pytest.param([COUNTER, LOG, DROP], True, id="counted and logged"),
        pytest.param([expression(b"reject")], True, id="reject"),
        pytest.param([COMPARE, DROP], False, id="on a condition"),
        pytest.param([expression(b"limit"), DROP], False, id="up to a limit"),
        pytest.param([ACCEPT], False, id="accept"),
        pytest.param([JUMP], False, id="jump"),
        pytest.param([COUNTER], False, id="count"),
        pytest.param([], False, id="nothing"),
        pytest.param([b"\1\0\1\0"], False, id="garbage"),
    ],
)
def test_a_rule_that_refuses_everything_is_told_from_others(expressions: list[bytes], refuses: bool) -> None:
    rule = bytes(4) + attribute(1, b"table\0") + attribute(2, b"chain\0") + netfilter.nested(4, *expressions)
    assert firewall._refuses_all(rule) is refuses
