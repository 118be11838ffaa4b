"""A scripted endpoint in a thread of its own, for the tests of the suite."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cri.scripted import Behaviour, Runtime


class Served:
    """`behaviours`, by the path of a method, at the socket `path`: from entering to leaving the context."""

    def __init__(self, path: Path, behaviours: Mapping[str, Behaviour]) -> None:
        self.path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._runtime = Runtime(path, dict(behaviours))

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._runtime.start(), self._loop).result(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runtime.stop(0), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()
