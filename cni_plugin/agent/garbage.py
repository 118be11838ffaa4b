"""GC by the clock: what dead pods left is searched for and removed by `podwire-net gc`, in a process of its own.

A search reads the whole state folder and every link; beside the loop it keeps neither routes nor health waiting, and
its memory goes with it. It needs no list of sandboxes: only what has lost its network namespace is garbage.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

_MOST_SECONDS = 120.0
_SHOWN = 5


@dataclass(slots=True)
class Counts:
    """Since the last `take` of each."""

    runs: int = 0
    removed: int = 0
    failed: int = 0
    broken: int = 0
    """Runs that did not end as they should."""

    def take(self, name: str) -> int:
        """A count, which begins anew."""
        number: int = getattr(self, name)
        setattr(self, name, 0)
        return number


class Collector:
    """Runs one search at a time. `seconds` 0: never."""

    def __init__(self, state_dir: str, conf_dir: str, seconds: float) -> None:
        self._command = [
            sys.executable, *(["-I"] if sys.flags.isolated else []), "-m", "cni_plugin.net",
            "gc", "--yes", "--json", "--state-dir", state_dir, "--netd", conf_dir,
        ]  # fmt: skip
        self._seconds = seconds
        # Not at once: after a boot many pods are in the making.
        self._due = time.monotonic() + seconds if seconds else float("inf")
        self._began = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._output = self._errors = -1
        self.counts = Counts()
        self.fault = ""

    def wait(self) -> float:
        """How long until there is something to do here."""
        return 0.2 if self._child else max(0.0, self._due - time.monotonic())

    def turn(self) -> list[str]:
        """Start or end a search where it is time; returns what to tell of it."""
        now = time.monotonic()
        if self._child is None:
            if now >= self._due:
                self._start(now)
            return []
        if self._child.poll() is None:
            if now - self._began > _MOST_SECONDS:
                self.stop()
                self._broken(f"it took more than {_MOST_SECONDS:g} s and was stopped")
            return []
        code = self._child.returncode
        self._child = None
        return self._end(code, _taken(self._output), _taken(self._errors))

    def _start(self, now: float) -> None:
        self._began, self._due = now, now + self._seconds
        # Not pipes: nobody reads while it runs, and after a great loss the answer is longer than a pipe.
        self._output, self._errors = os.memfd_create("gc's answer"), os.memfd_create("gc's errors")
        try:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._errors
            )
        except OSError as fault:
            self._broken(str(fault))
            self._forget()

    def _end(self, code: int, output: str, errors: str) -> list[str]:
        try:
            answer = json.loads(output)
            removed, failed = answer["removed"], answer["failed"]
        except (ValueError, KeyError, TypeError):
            self._broken(errors.strip() or f"exit code {code}")
            return []
        self.fault = ""
        self.counts.runs += 1
        self.counts.removed += len(removed)
        self.counts.failed += len(failed)
        told = [f"gc removed: {each.get('what', each)}" for each in removed[:_SHOWN]]
        told += [f"gc failed: {each.get('what', each)}: {each.get('error', '')}" for each in failed[:_SHOWN]]
        if len(removed) + len(failed) > 2 * _SHOWN:
            told.append(f"gc removed {len(removed)} and failed at {len(failed)} in all")
        return told

    def _broken(self, why: str) -> None:
        self.counts.broken += 1
        self.fault = f"gc did not run: {why}; try `podwire-net gc`"

    def stop(self) -> None:
        """End a search that runs; what it was at is safe to be cut off."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
            self._forget()

    def _forget(self) -> None:
        os.close(self._output)
        os.close(self._errors)


def _taken(descriptor: int) -> str:
    """The whole content of a memory file, which is closed."""
    with os.fdopen(descriptor, "rb") as stream:
        stream.seek(0)
        return stream.read().decode(errors="replace")
