"""What of an answer is compared: the same pod at two endpoints has other ids, times, addresses and measured values.

An id becomes <id N> by the order in which a run was told of it, so that "the container of that pod" stays comparable.
Fields that this schema does not know are kept by their number.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

_TIMES = {"created_at", "started_at", "finished_at", "timestamp"}
# Measured: two readings of one container differ as well.
_MEASURED = {"UInt64Value", "PsiData"}
# Measured in the background every few seconds: there once that has happened.
_LATE = {"writable_layer", "usage_nano_cores"}
_ID = re.compile(r"(?<![0-9a-f:])[0-9a-f]{64}(?![0-9a-f])")
_PATTERNS = (
    (re.compile(r"(https?)://[^/\s]+/(exec|attach|portforward)/[\w-]+"), r"\1://<server>/\2/<token>"),
    (re.compile(r"\b(net|ipc|uts|pid|mnt|user|cgroup):\[\d+\]"), r"\1:[<namespace>]"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"(?<![\d.])(?!127\.|0\.0\.0\.0)\d{1,3}(\.\d{1,3}){3}(?![\d.])"), "<address>"),
    (re.compile(r"\b(pid|process|PID)[ =]\d+"), r"\1 <pid>"),
    (re.compile(r"(/tmpmounts/[a-z-]+)\d+"), r"\1<number>"),
)


class Normaliser:
    """Turns what one run was answered into plain data without what may differ; `tokens` are the run's own words."""

    def __init__(self, tokens: Iterable[tuple[str, str]]) -> None:
        self._tokens = tuple(tokens)
        self._ids: dict[str, int] = {}

    def known(self, identity: str) -> bool:
        """Whether an answer before this one has named the id."""
        return identity in self._ids

    def text(self, text: str) -> str:
        """One string without ids, times, addresses, and the words of this run."""
        for word, name in self._tokens:
            text = text.replace(word, name)
        text = _ID.sub(lambda found: f"<id {self._ids.setdefault(found[0], len(self._ids) + 1)}>", text)
        for pattern, name in _PATTERNS:
            text = pattern.sub(name, text)
        return text

    def message(self, message: Message) -> dict[str, Any] | str:
        """All fields that are set, and the unknown ones."""
        if message.DESCRIPTOR.name in _MEASURED:
            return "<measured>"
        plain: dict[str, Any] = {}
        for field, value in message.ListFields():
            if field.name in _LATE:
                continue
            if field.name in _TIMES:
                plain[field.name] = "<time>"
            elif field.name == "info":
                # Free-form and the runtime's own: which keys there are is all that is comparable.
                plain[field.name] = sorted(value)
            else:
                plain[field.name] = self._field(field, value)
        unknown_fields: Any = UnknownFieldSet(message)
        for unknown in unknown_fields:
            plain[f"field {unknown.field_number}"] = f"<wire type {unknown.wire_type}>"
        return plain

    def _field(self, field: FieldDescriptor, value: Any) -> Any:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {self.text(str(key)): self._scalar(each) for key, each in sorted(value.items())}
        if field.is_repeated:
            return self._list(value)
        return self._scalar(value)

    def _list(self, values: Iterable[Any]) -> list[Any]:
        """In an order of its own: lists of pods, containers, images and mounts have none."""
        kept = [value for value in values if not isinstance(value, Message) or self._ours(value)]
        return sorted((self._scalar(value) for value in kept), key=lambda each: json.dumps(each, sort_keys=True))

    def _ours(self, value: Message) -> bool:
        """Whether an element of a list is of this run: the runtime may have pods and containers of others."""
        identities = list(_identities(value))
        return not identities or any(self.known(each) for each in identities)

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, Message):
            return self.message(value)
        if isinstance(value, bytes):
            return self.text(value.decode(errors="backslashreplace"))
        return self.text(value) if isinstance(value, str) else value


def _identities(value: Message) -> Iterator[str]:
    """The ids by which an element of a list is told from others."""
    for owner in (value, getattr(value, "attributes", None)):
        for name in ("id", "pod_sandbox_id"):
            identity = getattr(owner, name, "")
            if isinstance(identity, str) and _ID.fullmatch(identity):
                yield identity


def differences(first: list[Any], second: list[Any]) -> list[str]:
    """Where two records differ, in words; empty when they do not."""
    found = []
    for place, (one, other) in enumerate(zip(first, second, strict=False), 1):
        if one != other:
            found.append(f"answer {place}: {_shown(one)}\n  the reference: {_shown(other)}")
    if len(first) != len(second):
        found.append(f"{len(first)} answers, the reference gave {len(second)}")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 1500 else text[:1500] + " ..."
