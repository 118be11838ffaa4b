"""A systemctl for tests of what is asked of it; the real one is in tests/nodes."""

import subprocess
from collections.abc import Sequence


class Systemctl:
    """A systemctl and journalctl that answer from tables, and note what was asked of them."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.calls: list[tuple[str, ...]] = []
        self.fails: dict[str, str] = {}
        self.hangs: set[str] = set()
        self.restarts: list[str] = []

    def __call__(self, command: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[str]":
        program, *words = command
        if program == "journalctl":
            return subprocess.CompletedProcess(command, 0, "reading /etc/podwire/shim.toml\nno such key: 'liten'\n", "")
        verb, *rest = words
        unit = rest[-1].partition(".")[0].replace("-", "_") if rest else ""
        if verb == "is-active":
            state = self.states.get(unit, "inactive")
            return subprocess.CompletedProcess(command, 0 if state == "active" else 3, state + "\n", "")
        if verb == "show" and "--property=LoadState" in rest:
            return subprocess.CompletedProcess(command, 0, "loaded" if unit in self.states else "not-found", "")
        if verb == "show":
            return subprocess.CompletedProcess(command, 0, self.restarts.pop(0) if self.restarts else "0", "")
        self.calls.append(tuple(words))
        if verb in self.hangs:
            raise subprocess.TimeoutExpired(command, seconds)
        fault = self.fails.get(verb, "")
        return subprocess.CompletedProcess(command, 1 if fault else 0, "", fault)
