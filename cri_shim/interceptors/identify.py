"""Says whose each call is, for the interceptors after it and for their logs."""

from __future__ import annotations

from cri_shim import messages
from cri_shim.call import Call, Code
from cri_shim.chain import Interceptor
from cri_shim.errors import UnreadableError
from cri_shim.pods import SUBJECT, Pods, Subject, places


class Identify(Interceptor):
    """Leaves call.notes["subject"], a Subject. First in the chain, so it learns from what the client sees."""

    name = "identify"
    fail_open = True

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    def wants(self, method: str) -> bool:
        return places(method) is not None

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        where = places(call.method)
        if call.request_frames == 1 and where is not None:
            try:
                known = where.in_request
                subject = self._pods.named_in(call.method, messages.request(call, frame)) if known else Subject()
            except UnreadableError:
                subject = Subject()
            call.notes[SUBJECT] = subject
        return frame

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        subject = call.notes.get(SUBJECT)
        if subject is not None:
            call.notes[SUBJECT] = self._pods.answered(call.method, frame, subject)
        return frame

    async def on_end(self, call: Call) -> None:
        if call.code == Code.OK and (subject := call.notes.get(SUBJECT)) is not None:
            self._pods.removed(call.method, subject)
