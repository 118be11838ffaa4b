"""Whether the CNI plugin could serve a pod, in the Status that kubelet reads.

A runtime's NetworkReady says that a configuration was loaded. The plugin's own STATUS says whether ADD would work. It
is asked for in the background; a Status call only ever meets the latest answer.
"""

from __future__ import annotations

import asyncio
import json

from cri_shim import schema
from cri_shim.call import Call
from cri_shim.chain import Interceptor
from cri_shim.cni import Answer, Plugin
from cri_shim.log import Log

METHOD = "/runtime.v1.RuntimeService/Status"
CONDITION = "NetworkReady"
REASON = "PodwireNotReady"
INFO = "podwire.dev/network"
STATUS_SECONDS = 5.0


class Readiness:
    """The plugin's latest answers: how many in a row failed, and the words of the last of them."""

    def __init__(self, plugin: Plugin, log: Log, every: float, failures: int) -> None:
        self._plugin = plugin
        self._log = log
        self._every = every
        self._threshold = failures
        self.failures = 0
        self.text = ""

    @property
    def failed(self) -> bool:
        """Whether enough answers in a row were failures."""
        return self.failures >= self._threshold

    async def watch(self) -> None:
        """Ask for ever."""
        while True:
            self._take(await self._ask())
            await asyncio.sleep(self._every)

    async def _ask(self) -> Answer:
        try:
            configuration = self._plugin.configuration()
        except ValueError as error:
            return Answer(-1, str(error))
        # Another plugin's network, or none yet, which the runtime itself reports.
        if configuration is None:
            return Answer(0)
        return await self._plugin.call("STATUS", configuration, STATUS_SECONDS)

    def _take(self, answer: Answer) -> None:
        was_failing, was_failed, text = self.failures > 0, self.failed, self.text
        self.failures = self.failures + 1 if answer.code else 0
        self.text = answer.text
        if (self.failures > 0, self.failed, self.text) != (was_failing, was_failed, text):
            self._log.event(
                "network-ready",
                ready=not answer.code,
                failures=self.failures or None,
                code=answer.code or None,
                reason=answer.text,
            )


class NetworkReady(Interceptor):
    """Puts the answers into Status: into a verbose one's info, and, if it is to enforce, into the condition."""

    name = "network-ready"
    fail_open = True

    def __init__(self, readiness: Readiness, enforce: bool) -> None:
        self._readiness = readiness
        self._enforce = enforce

    def wants(self, method: str) -> bool:
        return method == METHOD

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        state = self._readiness
        if not state.failures:
            return frame
        response = schema.message("StatusResponse").FromString(frame)
        changed = False
        if response.info:  # only a verbose one has it
            response.info[INFO] = json.dumps({"ready": False, "failures": state.failures, "reason": state.text})
            changed = True
        if self._enforce and state.failed:
            changed |= self._deny(response.status)
        return response.SerializeToString() if changed else frame

    def _deny(self, status: schema.RuntimeMessage) -> bool:
        condition = next((each for each in status.conditions if each.type == CONDITION), None)
        if condition is None:
            condition = status.conditions.add(type=CONDITION, status=True)
        if not condition.status:
            return False  # a network that the runtime itself finds unready keeps the runtime's words
        condition.status, condition.reason = False, REASON
        condition.message = f"the CNI plugin podwire cannot serve pods: {self._readiness.text}"
        return True
