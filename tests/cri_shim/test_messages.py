"""Frames as messages: nothing is lost by a change, nothing is written anew without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_shim import messages, schema
from cri_shim.call import Call
from cri_shim.errors import UnreadableError
from cri_shim.schema import RuntimeMessage

METHODS = sorted(path for path, method in schema.methods().items() if method.unary)
RUN = "/runtime.v1.RuntimeService/RunPodSandbox"
# Field 2047, length-delimited: no message of the schema has it.
TAG = b"\xfa\x7f"


def edited(method: str, frame: bytes, change: Callable[[RuntimeMessage], object]) -> bytes:
    async def apply(message: RuntimeMessage) -> None:
        change(message)

    return asyncio.run(messages.edit_request(Call(method, []), frame, apply))


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def marked(described: Any, place: str, markers: list[bytes]) -> bytes:
    """A message with an unknown field in itself and in one message of each kind below it."""
    frame = b""
    for field in described.fields:
        inner = field.message_type
        # protobuf rebuilds the entries of a map.
        if inner is not None and not inner.GetOptions().map_entry:
            below = marked(inner, f"{place}.{field.name}", markers)
            frame += varint(field.number << 3 | 2) + varint(len(below)) + below
    marker = f"<{place}>".encode()
    markers.append(marker)
    return frame + TAG + varint(len(marker)) + marker


def first_text(described: Any) -> Iterator[list[str]]:
    """Paths of string fields that can be set."""
    for field in described.fields:
        if field.is_repeated:
            continue
        if field.message_type is not None:
            for path in first_text(field.message_type):
                yield [field.name, *path]
        elif field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_STRING:
            yield [field.name]


def set_text(path: list[str]) -> Callable[[RuntimeMessage], None]:
    def change(message: RuntimeMessage) -> None:
        for name in path[:-1]:
            message = getattr(message, name)
        setattr(message, path[-1], "changed")

    return change


def with_text() -> Iterator[Any]:
    """Methods whose request has a text to change, and the path to it."""
    for path in METHODS:
        described = schema.message(schema.methods()[path].request).DESCRIPTOR
        text = next(first_text(described), None)
        if text is not None:
            yield pytest.param(path, text, id=path.rpartition("/")[2])


@pytest.mark.parametrize(("method", "text"), list(with_text()))
def test_unknown_fields_at_every_depth_survive_a_change(method: str, text: list[str]) -> None:
    described = schema.message(schema.methods()[method].request).DESCRIPTOR
    markers: list[bytes] = []
    frame = marked(described, described.name, markers)
    changed = edited(method, frame, set_text(text))
    assert b"changed" in changed
    assert [marker for marker in markers if marker not in changed] == []


@given(st.binary(max_size=200), st.sampled_from(METHODS))
def test_without_a_change_a_frame_stays_the_same_object_or_is_unreadable(frame: bytes, method: str) -> None:
    try:
        assert edited(method, frame, lambda message: None) is frame
    except UnreadableError:
        with pytest.raises(UnreadableError):
            messages.request(Call(method, []), frame)


def test_a_frame_is_parsed_once_for_all_who_read_it() -> None:
    call = Call(RUN, [])
    frame = schema.message("RunPodSandboxRequest")(runtime_handler="x").SerializeToString()
    assert messages.request(call, frame) is messages.request(call, frame)
    assert messages.request(call, bytes(bytearray(frame))) is not None


def test_what_an_edit_left_is_what_the_next_one_reads() -> None:
    call = Call(RUN, [])

    async def twice() -> bytes:
        async def add(message: RuntimeMessage) -> None:
            message.runtime_handler += "+"

        return await messages.edit_request(call, await messages.edit_request(call, b"", add), add)

    changed = asyncio.run(twice())
    assert messages.request(call, changed).runtime_handler == "++"
    assert schema.message("RunPodSandboxRequest").FromString(changed).runtime_handler == "++"


def test_a_change_that_raises_changes_nothing() -> None:
    call = Call(RUN, [])
    frame = schema.message("RunPodSandboxRequest")(runtime_handler="x").SerializeToString()

    async def broken(message: RuntimeMessage) -> None:
        message.runtime_handler = "y"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(messages.edit_request(call, frame, broken))
    assert messages.request(call, frame).runtime_handler == "x"


@pytest.mark.parametrize(
    ("method", "frame", "says"),
    [
        pytest.param(RUN, b"\x0a\xff", "the request of RunPodSandbox is no request of the schema", id="garbage"),
        pytest.param(RUN, b"\x12\x02\xff\xfe", "String field had bad UTF-8", id="invalid-utf8"),
        pytest.param("/v9.New/Method", b"", "the schema has no method /v9.New/Method", id="unknown-method"),
    ],
)
def test_what_is_no_message_says_why(method: str, frame: bytes, says: str) -> None:
    with pytest.raises(UnreadableError, match=says):
        messages.request(Call(method, []), frame)


def test_changed_fields_are_named_by_path_and_never_by_value() -> None:
    message = schema.message("RunPodSandboxRequest")
    before = message(config={"hostname": "a", "labels": {"k": "v"}, "metadata": {"name": "n"}})
    after = message(
        config={"hostname": "b", "labels": {"k": "w"}, "metadata": {"name": "n"}, "linux": {"cgroup_parent": "/x"}}
    )
    assert list(messages.changed_fields(before, after)) == ["config.hostname", "config.labels", "config.linux"]
    assert list(messages.changed_fields(before, before)) == []
