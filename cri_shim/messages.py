"""A call's frames as messages: parsed on demand, once, and serialised again only when something changed.

Fields the schema does not know survive a change (protobuf keeps them). A frame that is no message of its
method, invalid UTF-8 included, raises UnreadableError; whoever asked decides what that means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from google.protobuf.message import DecodeError, EncodeError

from cri_shim import schema
from cri_shim.call import Call
from cri_shim.errors import UnreadableError
from cri_shim.schema import RuntimeMessage

NOTE = "messages"
Change = Callable[[RuntimeMessage], Awaitable[None]]


def request(call: Call, frame: bytes) -> RuntimeMessage:
    """The request in `frame`; shared by all who ask, so never to be changed: `edit_request` does that."""
    return _read(call, frame, "request")


def response(call: Call, frame: bytes) -> RuntimeMessage:
    """The response in `frame`; as `request`."""
    return _read(call, frame, "response")


async def edit_request(call: Call, frame: bytes, change: Change) -> bytes:
    """The frame after `change(message)`, the very same object when that changed nothing.

    What `change` raises passes through, and then nothing has changed. UnreadableError before it is called.
    """
    return await _edit(call, frame, "request", change)


async def edit_response(call: Call, frame: bytes, change: Change) -> bytes:
    """As `edit_request`, for a frame on its way to the client."""
    return await _edit(call, frame, "response", change)


def changed_fields(before: RuntimeMessage, after: RuntimeMessage, place: str = "") -> Iterator[str]:
    """Paths of the fields that differ ("config.labels"), without any value; lists and maps count as one."""
    for field in before.DESCRIPTOR.fields:
        one, other = getattr(before, field.name), getattr(after, field.name)
        # A repeated field of messages has no presence.
        single = field.message_type is not None and field.has_presence
        same_presence = not field.has_presence or before.HasField(field.name) == after.HasField(field.name)
        if one == other and same_presence:
            continue
        if single and same_presence:
            yield from changed_fields(one, other, f"{place}{field.name}.")
        else:
            yield f"{place}{field.name}"


def _read(call: Call, frame: bytes, direction: str) -> RuntimeMessage:
    kept: dict[str, tuple[bytes, RuntimeMessage]] = call.notes.setdefault(NOTE, {})
    frame_and_message = kept.get(direction)
    if frame_and_message is None or frame_and_message[0] is not frame:
        frame_and_message = kept[direction] = (frame, _parse(call, frame, direction))
    return frame_and_message[1]


def _parse(call: Call, frame: bytes, direction: str) -> RuntimeMessage:
    known = schema.methods().get(call.method)
    if known is None:
        raise UnreadableError(f"the schema has no method {call.method}")
    try:
        return schema.message(known.request if direction == "request" else known.response).FromString(frame)
    except DecodeError as error:
        raise UnreadableError(f"the {direction} of {call.name} is no {direction} of the schema: {error}") from error


async def _edit(call: Call, frame: bytes, direction: str, change: Change) -> bytes:
    before = _read(call, frame, direction)
    after = type(before)()
    after.CopyFrom(before)
    await change(after)
    if after == before:
        return frame
    try:
        changed = after.SerializeToString()
    except EncodeError as error:
        raise UnreadableError(f"the changed {direction} of {call.name} cannot be written: {error}") from error
    call.notes[NOTE][direction] = (changed, after)
    return changed
