"""Who ran what in which pod, who got privileges, who pulled what: one JSON line per such call, when it ends.

Never written: environment, credentials, the streaming URLs (they are tickets), what commands print, error texts.
Whatever field the schema marks debug_redact is replaced. A call waits for nothing here: lines are written
by a thread, and what a full disk does not take is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from cri_shim import messages, schema
from cri_shim.call import Call, Code
from cri_shim.capabilities import Setup
from cri_shim.chain import Interceptor
from cri_shim.errors import AskError, ConfigError, UnreadableError
from cri_shim.interceptors.observe import trace_id
from cri_shim.log import Log, encoded_size
from cri_shim.pods import SUBJECT, Subject
from cri_shim.schema import RuntimeMessage
from cri_shim.settings import Setting, take, text, whole

MODE = 0o600
REDACTED = "[redacted]"
NOTE = "audit"
# How long a line waits for the name of a pod that the shim has not seen yet.
WHO_SECONDS = 2.0
# Paths of the request's fields that a line holds.
WHAT = {
    "Exec": ("cmd", "tty", "stdin"),
    "ExecSync": ("cmd", "timeout"),
    "Attach": ("tty", "stdin"),
    "PortForward": ("port",),
    "PullImage": ("image.image", "image.user_specified_image", "image.runtime_handler"),
    "RunPodSandbox": ("runtime_handler",),
    "CreateContainer": ("config.image.image", "config.image.user_specified_image", "config.command", "config.args"),
}
# Audited only when they ask for privileges.
PRIVILEGED = ("RunPodSandbox", "CreateContainer")


def _path(value: Any) -> str:
    path = text(value)
    if not path.startswith("/"):
        raise ValueError(f"must be the absolute path of a file, not {path!r}")
    return path


# What the keys of this capability's table hold when it does not.
DEFAULTS = {"file": "/var/log/podwire-audit.jsonl", "line_bytes": 16384}
SETTINGS = (Setting("file", "file", _path), Setting("line_bytes", "line_bytes", whole(1024, 1 << 20)))


class Audit(Interceptor):
    """Writes to `file` (0600, appended to, reopened when it was moved away); a line has at most `line_bytes`."""

    name = "audit"
    fail_open = True

    def __init__(self, setup: Setup) -> None:
        if setup.rules:
            raise ConfigError([f"rule {rule.name}: audit takes no rules" for rule in setup.rules])
        values = take(SETTINGS, DEFAULTS | dict(setup.settings), self.name)
        self._file: str = values["file"]
        self._line_bytes: int = values["line_bytes"]
        self._services = setup.services
        self._log: Log | None = None
        self._writing: set[asyncio.Task[None]] = set()

    def wants(self, method: str) -> bool:
        return method in schema.methods() and method.rpartition("/")[2] in WHAT

    async def start(self) -> None:
        """Open the file; ConfigError when that cannot be done."""
        try:
            self._log = Log(self._file, mode=MODE, lost=self._lost)
        except OSError as error:
            raise ConfigError([f"audit.file: {self._file}: {error.strerror}"]) from error

    async def close(self) -> None:
        """Write what is left."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=WHO_SECONDS + 1)
        if self._log is not None:
            await asyncio.to_thread(self._log.close)

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        try:
            request = messages.request(call, frame)
        except UnreadableError:
            call.notes[NOTE] = {"unreadable": True}
            return frame
        privileges = _privileges(request) if call.name in PRIVILEGED else {}
        if call.name not in PRIVILEGED or privileges:
            call.notes[NOTE] = {
                **privileges,
                **{path.rpartition(".")[2]: value for path in WHAT[call.name] if (value := shown(request, path))},
            }
        return frame

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        if call.name == "ExecSync" and NOTE in call.notes:
            try:
                call.notes[NOTE]["exit_code"] = messages.response(call, frame).exit_code
            except UnreadableError:
                pass
        return frame

    async def on_end(self, call: Call) -> None:
        if NOTE in call.notes:
            task = asyncio.create_task(self._write(call))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write(self, call: Call) -> None:
        subject: Subject = call.notes.get(SUBJECT) or Subject()
        try:
            async with asyncio.timeout(WHO_SECONDS):
                subject = await self._services.pods.find(subject)
        except (TimeoutError, AskError):
            pass
        record: dict[str, object] = {
            "method": call.name,
            **subject.names(),
            **call.notes[NOTE],
            "code": Code(call.code).name if call.code in _CODES else call.code,
            "ended_by": str(call.ended_by),
            "duration_ms": round(call.duration * 1000, 3),
            "rules": call.notes.get("rules"),
            "trace_id": trace_id(call),
        }
        if self._log is not None:
            self._log.event("audit", **bounded(record, self._line_bytes))

    def _lost(self, lines: int) -> None:
        self._services.vitals.lost_lines[self.name] += lines


_CODES = frozenset(Code)


def shown(message: RuntimeMessage, path: str) -> Any:
    """A field as JSON takes it, secrets replaced; None when a message on the way is absent."""
    name, _, rest = path.partition(".")
    if rest:
        return shown(getattr(message, name), rest) if message.HasField(name) else None
    return _plain(message, message.DESCRIPTOR.fields_by_name[name])


def redacted(message: RuntimeMessage) -> dict[str, Any]:
    """All fields that are set as JSON takes them: values the schema marks as secret and those of environment
    variables replaced."""
    return {field.name: _plain(message, field) for field, _ in message.ListFields()}


def _plain(message: RuntimeMessage, field: Any) -> Any:
    value = getattr(message, field.name)
    environment = message.DESCRIPTOR.name == "KeyValue" and field.name == "value"
    if environment or field.GetOptions().debug_redact:
        return REDACTED if value else value
    if field.message_type is None:
        return _text(value) if isinstance(value, str | bytes | int | float) else list(value)
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    # A repeated field of messages has no presence.
    return redacted(value) if field.has_presence else [redacted(one) for one in value]


def _text(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _privileges(request: RuntimeMessage) -> dict[str, Any]:
    context = request.config.linux.security_context
    options, node = context.namespace_options, schema.enum("NamespaceMode")["NODE"]
    host = [name for name in ("network", "pid", "ipc") if getattr(options, name) == node]
    return {
        **({"privileged": True} if context.privileged else {}),
        **({"host_namespaces": host} if host else {}),
    }


def bounded(record: dict[str, object], most: int) -> dict[str, object]:
    """The record, or one with shortened texts and lists and `truncated`, whose line has at most `most` bytes."""
    # The line's own time and event come in addition, and the mark.
    most -= 128
    length = most
    short = {key: _short(value, length) for key, value in record.items()}
    while encoded_size(short) > most and length > 8:
        length //= 2
        short = {key: _short(value, length) for key, value in record.items()}
    return record if short == record else short | {"truncated": True}


def _short(value: object, length: int) -> object:
    if isinstance(value, str):
        return value[:length]
    if isinstance(value, Iterable) and not isinstance(value, dict):
        kept: list[object] = []
        for one in value:
            if length <= 0:
                break
            short = _short(one, length)
            kept.append(short)
            # Quotes and a comma.
            length -= 3 + (len(short) if isinstance(short, str) else 0)
        return kept
    return value
