"""SIGTERM, SIGINT, SIGHUP and the end of the caller: all end the work at once, and none ends the undoing of it."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised in the main thread, once, wherever it is; like KeyboardInterrupt no `except Exception` takes it."""


class Interruption:
    """Turns signals into Interrupted until `shield` is called; a context manager of the main thread."""

    def __init__(self) -> None:
        self._armed = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._arrived)
        self._armed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._armed = False
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal.signal gave is what it takes

    def shield(self) -> None:
        """From now on signals are noticed by nobody: what is undone now must be undone whole."""
        self._armed = False

    def arm(self) -> None:
        """After `shield`: signals end the work again."""
        self._armed = True

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise Interrupted(signal.Signals(number).name)


def watch_lifeline(descriptor: int = 0) -> None:
    """End this process as SIGTERM does when `descriptor` ends: whoever started us is gone.

    `docker exec` does not pass signals on, but the stdin of what it runs ends with it.
    """

    def watch() -> None:
        try:
            while os.read(descriptor, 1 << 12):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
