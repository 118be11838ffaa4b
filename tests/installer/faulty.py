"""Failures at chosen points of the journal: an exception there, or the end of the process, as after kill -9."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cni_plugin.install.install import Rehearsal
from cni_plugin.install.interruption import Interrupted
from cni_plugin.install.journal import Journal, Step

KILLED = 137


class Injected(Exception):
    """What no code foresees."""


ENDS: dict[str, Callable[[], None]] = {}


def _end(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def enter(function: Callable[[], None]) -> Callable[[], None]:
        ENDS[name] = function
        return function

    return enter


@_end("exception")
def _raise() -> None:
    raise Injected("injected")


@_end("signal")
def _interrupt() -> None:
    raise Interrupted("SIGTERM")


@_end("kill -9")
def _kill() -> None:
    os._exit(KILLED)


@dataclass
class Points:
    """Counts the points that a run passes, and ends it at one of them."""

    at: int = -1
    end: str = "exception"
    passed: int = 0

    def point(self) -> None:
        """One point."""
        if self.passed == self.at:
            self.passed += 1
            ENDS[self.end]()
        self.passed += 1

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put points into every step of every journal in this process: written down and not done, and done."""
        perform = Journal.perform

        def guarded(journal: Journal, step: Step) -> None:
            if isinstance(journal, Rehearsal):
                journal.perform(step)
                return

            def do() -> None:
                self.point()
                step.do()
                self.point()

            perform(journal, Step(step.name, step.kind, step.part, step.data, do))

        patch.setattr(Journal, "perform", guarded)

    def install_in_undo(self, patch: pytest.MonkeyPatch) -> None:
        """Put points where a step is undone, and not forgotten yet."""
        drop = Journal.drop

        def guarded(journal: Journal, step: dict[str, object]) -> None:
            self.point()
            drop(journal, step)

        patch.setattr(Journal, "drop", guarded)
