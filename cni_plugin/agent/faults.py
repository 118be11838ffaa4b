"""What is wrong now, as a set of sentences: each is logged when it begins and when it ends, never again in between."""

import sys
import threading
from collections.abc import Callable, Iterable

# A list of ten thousand bad nodes is one problem, not ten thousand lines.
_MOST_LINES = 20


class Log:
    """Lines on stderr, for the journal: syslog's priority first (sd-daemon(3)), where systemd reads it."""

    def __init__(self, *, priorities: bool) -> None:
        self._priorities = priorities
        self._lock = threading.Lock()

    def info(self, text: str) -> None:
        """Something worth reading that is no failure."""
        self._line(6, text)

    def error(self, text: str) -> None:
        """Something that somebody should do something about."""
        self._line(3, text)

    def _line(self, priority: int, text: str) -> None:
        word = f"<{priority}>" if self._priorities else "error: " if priority <= 3 else ""
        with self._lock:
            try:
                sys.stderr.write(f"{word}{text}\n")
                sys.stderr.flush()
            except (OSError, ValueError):
                pass  # whoever read it is gone; the work goes on


class Faults:
    """The faults of each part of the agent."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._by_part: dict[str, tuple[str, ...]] = {}

    def report(self, part: str, faults: Iterable[str]) -> None:
        """These, and no others, are wrong in this part now."""
        now = tuple(dict.fromkeys(faults))
        before = self._by_part.get(part, ())
        if now == before:
            return
        self._by_part[part] = now
        old, new = set(before), set(now)
        self._lines(self._log.error, [each for each in now if each not in old], "")
        self._lines(self._log.info, [each for each in before if each not in new], "no longer: ")

    def _lines(self, write: Callable[[str], None], texts: list[str], prefix: str) -> None:
        for text in texts[:_MOST_LINES]:
            write(prefix + text)
        if len(texts) > _MOST_LINES:
            write(f"{prefix}... and {len(texts) - _MOST_LINES} more of this kind")

    def all(self) -> list[str]:
        """Everything that is wrong now."""
        return [each for faults in list(self._by_part.values()) for each in faults]

    def counts(self) -> dict[str, int]:
        """How much is wrong, by part; parts that were well again count 0."""
        return {part: len(faults) for part, faults in list(self._by_part.items())}
