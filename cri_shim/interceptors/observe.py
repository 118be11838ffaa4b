"""One log line and one timing per call, whatever the call is and however it ends.

Never a payload, never an error's text: both can hold secrets and other people's data.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from cri_shim.call import Call, Code
from cri_shim.chain import Interceptor
from cri_shim.log import Log
from cri_shim.pods import SUBJECT, Subject
from cri_shim.rules import NOTE


class Observe(Interceptor):
    """Logs what `Identify` and the rules left in the call's notes. `quiet_methods` are short names or paths."""

    name = "observe"
    fail_open = True

    def __init__(self, log: Log, quiet_methods: Collection[str] = ()) -> None:
        self._log = log
        self._quiet = frozenset(quiet_methods)

    async def on_end(self, call: Call) -> None:
        subject: Subject | None = call.notes.get(SUBJECT)
        if call.code == Code.OK and (call.name in self._quiet or call.method in self._quiet):
            return
        self._log.event(
            "call",
            method=call.method,
            code=Code(call.code).name if call.code is not None else None,
            ended_by=str(call.ended_by),
            duration_ms=_milliseconds(call.duration),
            upstream_ms=_milliseconds(call.upstream_seconds),
            shim_ms=_milliseconds(call.shim_seconds),
            request_bytes=call.request_bytes,
            response_bytes=call.response_bytes,
            request_frames=call.request_frames,
            response_frames=call.response_frames,
            rules=call.notes.get(NOTE),
            trace_id=trace_id(call),
            **(subject.names() if subject is not None else {}),
        )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


# The trace's id out of `traceparent` (W3C Trace Context, 3.2.2): version, trace id, parent id, flags.
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def trace_id(call: Call) -> str:
    """Id of the trace the client's call belongs to, "" when it names none; metadata pass on as they are."""
    for key, value in call.metadata:
        if key == "traceparent" and isinstance(value, str):
            found = TRACEPARENT.fullmatch(value)
            # Version ff and an id of zeros are invalid (3.2.2.1, 3.2.2.3).
            return found[1] if found and not value.startswith("ff") and found[1].strip("0") else ""
    return ""
