"""Where the list of nodes comes from: a thread that keeps the latest list and says when it is another one.

A source never ends and never raises: what it cannot have now is a sentence in `fault`, and the last list stays. The
rest of the agent only reads `latest`, `fault` and `contact`, each replaced as a whole.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from cni_plugin.agent.errors import SourceError
from cni_plugin.agent.peers import Nodes


class Source(ABC):
    """A thread around `turn`. `latest` is None until there was a list; `contact` is the time of the last success."""

    kind = ""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.latest: Nodes | None = None
        self.fault = ""
        self.contact: float | None = None
        self._changed = changed
        self._awake = threading.Event()
        self._ended = False
        # Never joined: a process that is told to end does not wait for a name server or an API server.
        self._thread = threading.Thread(target=self._run, name=f"source {self.kind}", daemon=True)

    def start(self) -> None:
        """Begin; the first list is published by `changed` like any other."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end when it can."""
        self._ended = True
        self._awake.set()

    def poke(self) -> None:
        """Look again now rather than at the end of a pause."""
        self._awake.set()

    @abstractmethod
    def turn(self) -> float:
        """Get or follow the list, publish it, and return the pause before the next turn. Raises SourceError."""

    @abstractmethod
    def retry_after(self) -> float:
        """The pause after a turn that failed."""

    def _run(self) -> None:
        while not self._ended:
            try:
                pause = self.turn()
            except SourceError as fault:
                self.complain(str(fault))
                pause = self.retry_after()
            except Exception as fault:  # noqa: BLE001  # a source that dies of a surprise would leave the node blind
                self.complain(f"the source {self.kind} failed in a way nobody foresaw: {type(fault).__name__}: {fault}")
                pause = self.retry_after()
            if self._awake.wait(pause):
                self._awake.clear()

    def publish(self, nodes: Nodes) -> None:
        """A list was had; says so when it is another one."""
        self.touch()
        if nodes != self.latest:
            self.latest = nodes
            self._changed()

    def touch(self) -> None:
        """The source answered just now."""
        self.contact = time.monotonic()
        if self.fault:
            self.complain("")

    def complain(self, fault: str) -> None:
        """Set the fault; empty when there is none any more."""
        if fault != self.fault:
            self.fault = fault
            self._changed()
