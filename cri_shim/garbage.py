"""What pods left behind, collected: the live sandboxes go to the plugin's GC, which no runtime calls.

The plugin removes only what was made before the list was begun, two successive lists do not name, and has no network
namespace any more. A list that fails or cannot be read is no list.
"""

from __future__ import annotations

import asyncio
import time

from google.protobuf.message import DecodeError
from grpc import aio

from cri_shim import schema
from cri_shim.cni import Plugin
from cri_shim.log import Log
from cri_shim.upstream import Upstream

METHOD = "/runtime.v1.RuntimeService/ListPodSandbox"
KEY = "podwire.dev/gc"
LIST_SECONDS = 30.0
GC_SECONDS = 60.0
# Before the next try when there was no list.
AGAIN_SECONDS = 5.0


class Collector:
    """Calls the plugin's GC with the runtime's sandboxes, at once and then every so many seconds."""

    def __init__(self, plugin: Plugin, upstream: Upstream, log: Log, every: float) -> None:
        self._plugin = plugin
        self._upstream = upstream
        self._log = log
        self._every = every
        self._fault = ""

    async def watch(self) -> None:
        """Collect for ever."""
        while True:
            listed = await self._collect()
            await asyncio.sleep(self._every if listed else min(self._every, AGAIN_SECONDS))

    async def _collect(self) -> bool:
        try:
            configuration = self._plugin.configuration()
            if configuration is None or configuration.pop("disableGC", False):
                return True
            as_of = time.clock_gettime(time.CLOCK_BOOTTIME)
            sandboxes = await self._sandboxes()
        except ValueError as error:
            self._skip(str(error))
            return False
        self._fault = ""
        began = time.monotonic()
        answer = await self._plugin.call(
            "GC", configuration, GC_SECONDS, **{KEY: {"containers": sandboxes, "asOf": as_of}}
        )
        self._log.event(
            "gc",
            sandboxes=len(sandboxes),
            duration_ms=round((time.monotonic() - began) * 1000, 3),
            code=answer.code or None,
            reason=answer.text,
        )
        return True

    async def _sandboxes(self) -> list[str]:
        """The ids of all sandboxes, in whatever state; ValueError when they cannot be had, all of them."""
        request = schema.message("ListPodSandboxRequest")().SerializeToString()
        try:
            frame = await self._upstream.unary(METHOD)(request, timeout=LIST_SECONDS)
            items = schema.message("ListPodSandboxResponse").FromString(frame).items
        except aio.AioRpcError as error:
            raise ValueError(f"ListPodSandbox: {error.code().name}: {error.details()}") from error
        except DecodeError as error:
            raise ValueError(f"ListPodSandbox: {error}") from error
        sandboxes = [str(item.id) for item in items]
        if not all(sandboxes):
            raise ValueError("ListPodSandbox names a sandbox without an id")
        return sandboxes

    def _skip(self, fault: str) -> None:
        # A runtime that is away for long is one line, not one for each try.
        if fault != self._fault:
            self._fault = fault
            self._log.event("gc-skipped", reason=fault)
