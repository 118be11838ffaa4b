"""One log line and one timing per call, whatever the call is and however it ends.

Never a payload, never an error's text: both can hold secrets and other people's data.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from cri_shim.call import Call, Code
from cri_shim.chain import Interceptor
from cri_shim.log import Log
from cri_shim.pods import Pods, Subject, places

SUBJECT = "subject"


class Observe(Interceptor):
    """Leaves call.notes["subject"], a Subject, for the interceptors after it and for its line.

    Successful calls of `quiet_methods` (short names or paths) are not logged.
    """

    name = "observe"
    fail_open = True

    def __init__(self, log: Log, quiet_methods: Collection[str] = ()) -> None:
        self._log = log
        self._quiet = frozenset(quiet_methods)
        self._pods = Pods()

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        if call.request_frames == 1 and places(call.method) is not None:
            call.notes[SUBJECT] = self._pods.asked(call.method, frame)
        return frame

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        subject = call.notes.get(SUBJECT)
        if subject is not None:
            call.notes[SUBJECT] = self._pods.answered(call.method, frame, subject)
        return frame

    async def on_end(self, call: Call) -> None:
        subject: Subject | None = call.notes.get(SUBJECT)
        if call.code == Code.OK:
            if subject is not None:
                self._pods.removed(call.method, subject)
            if call.name in self._quiet or call.method in self._quiet:
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
            **(asdict(subject) if subject is not None else {}),
        )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
