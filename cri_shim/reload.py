"""The chain of the current configuration, and its change while calls go on.

A file that changed is taken as a whole or not at all. Calls in flight end with the interceptors they began
with; an interceptor whose table and rules did not change stays the same object, with all it has counted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cri_shim import capabilities, config
from cri_shim.capabilities import Built, Closes, Services, Starts
from cri_shim.chain import Chain, Complain, Interceptor
from cri_shim.config import Config
from cri_shim.errors import ConfigError
from cri_shim.interceptors.identify import Identify
from cri_shim.interceptors.observe import Observe
from cri_shim.log import Log

POLL_SECONDS = 0.5
# What a reload changes; all other keys hold from the start on.
RELOADED = frozenset(("drain_seconds", "interceptors", "observe_enabled", "observe_quiet_methods", "rules", "tables"))


@dataclass(slots=True)
class Source:
    """Where the configuration comes from: a TOML file, or None for defaults, and the command line's keys."""

    file: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    loaded: tuple[int, ...] | None = None

    def load(self) -> Config:
        """What it says now; ConfigError with every fault."""
        self.loaded = self.version()
        return capabilities.load(self.file, self.overrides)

    def version(self) -> tuple[int, ...] | None:
        """Changes when the file is written to or replaced, links on the way included; None without one."""
        try:
            status = os.stat(self.file) if self.file is not None else None
        except OSError:
            return None
        return status and (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


class Live:
    """What the configuration came to, now and after each change."""

    def __init__(
        self,
        source: Source,
        config: Config,
        services: Services,
        log: Log,
        complain: Complain,
        always: Sequence[Interceptor] = (),
    ) -> None:
        """`always` come last in every chain; no configuration takes them away."""
        self.config = config
        self._always = tuple(always)
        self._source = source
        self._services = services
        self._log = log
        self._complain = complain
        self._built: Built = {}
        self._version = source.loaded
        self._asked = asyncio.Event()

    async def start(self) -> Chain:
        """The first chain; ConfigError when something cannot be built or started."""
        self._built = await self._take(self.config)
        return self._chain()

    def ask(self) -> None:
        """Read the file again, changed or not (SIGHUP)."""
        self._asked.set()

    async def follow(self, use: Callable[[Chain], None], landed: Callable[[Interceptor], Awaitable[None]]) -> None:
        """Take every later version of the file: `use` its chain, and close what went once its calls have `landed`."""
        retiring: set[asyncio.Task[None]] = set()
        seen = self._version
        try:
            while True:
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._asked.wait()
                except TimeoutError:
                    pass
                version, before = self._source.version(), seen
                seen = version
                # Unless asked, a file is read once it has rested: an editor may still be writing it.
                if not self._asked.is_set() and (version == self._version or version != before):
                    continue
                self._asked.clear()
                self._version = version
                for gone in await self._change(use):
                    task = asyncio.create_task(self._retire(gone, landed(gone)))
                    retiring.add(task)
                    task.add_done_callback(retiring.discard)
        finally:
            for task in retiring:
                task.cancel()

    async def close(self) -> None:
        """Give back what the interceptors hold; no call is in flight any more."""
        await _close((made for _, made in self._built.values()), self._failed_to_close)

    async def _change(self, use: Callable[[Chain], None]) -> list[Interceptor]:
        """Take the file as it is now; the interceptors that have no place any more."""
        try:
            wanted = self._source.load()
            built = await self._take(wanted)
        except Exception as error:  # noqa: BLE001 (a third party's code; the next version is looked for)
            for fault in error.faults if isinstance(error, ConfigError) else [f"{type(error).__name__}: {error}"]:
                self._log.event("reload-failed", fault=fault, kept="the configuration before")
            self._services.vitals.reloads["failed"] += 1
            return []
        late = [
            row.key
            for row in config.SETTINGS
            if row.attribute not in RELOADED and getattr(wanted, row.attribute) != getattr(self.config, row.attribute)
        ]
        gone = [made for name, (_, made) in self._built.items() if built.get(name, (None, None))[1] is not made]
        self.config, self._built = wanted, built
        use(self._chain())
        self._services.tally.keep((rule.interceptor, rule.name) for rule in wanted.rules)
        self._services.vitals.reloads["done"] += 1
        self._log.event(
            "reloaded",
            interceptors=list(built),
            rules=[rule.name for rule in wanted.rules],
            needs_restart=late or None,
        )
        return gone

    async def _take(self, wanted: Config) -> Built:
        """Build and start what `wanted` asks for; all of it, or none and ConfigError."""
        built = capabilities.build(wanted, self._services, self._built)
        old = [made for _, made in self._built.values()]
        started: list[Interceptor] = []
        for name, (_, made) in built.items():
            if made in old:
                continue
            started.append(made)
            try:
                if isinstance(made, Starts):
                    await made.start()
            except Exception as error:
                await _close(started, self._failed_to_close)
                faults = error.faults if isinstance(error, ConfigError) else [f"{type(error).__name__}: {error}"]
                raise ConfigError([f"{name}: {fault}" for fault in faults]) from error
        return built

    def _chain(self) -> Chain:
        built = [made for _, made in self._built.values()]
        observe: list[Interceptor] = []
        if self.config.observe_enabled:
            observe = [Observe(self._log, self.config.observe_quiet_methods)]
        asked = [Identify(self._services.pods), *observe, *built] if observe or built else []
        return Chain([*asked, *self._always], self._complain)

    async def _retire(self, gone: Interceptor, landed: Awaitable[None]) -> None:
        # A stream may last for days.
        try:
            await asyncio.wait_for(landed, self.config.drain_seconds)
        except TimeoutError:
            pass
        await _close([gone], self._failed_to_close)

    def _failed_to_close(self, made: Interceptor, error: Exception) -> None:
        self._log.event("close-failed", interceptor=made.name, error=f"{type(error).__name__}: {error}")


async def _close(interceptors: Iterable[Interceptor], complain: Callable[[Interceptor, Exception], None]) -> None:
    for made in interceptors:
        if isinstance(made, Closes):
            try:
                await made.close()
            except Exception as error:  # noqa: BLE001 (a third party's code; the others are closed all the same)
                complain(made, error)
