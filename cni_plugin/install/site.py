"""The node that is installed: its places, its units, its programs, and how progress is told."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugin.install.places import Places
from cni_plugin.install.systemd import Systemd


class NodeError(Exception):
    """Something on the node is not as it must be; `details` says what to do."""

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


def to_stderr(line: str) -> None:
    """A line for people. Whether anybody still reads must not matter: an undo goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


@dataclass
class Site:
    """What steps and their undoing work with. `seconds` bounds each wait for something of the node."""

    places: Places
    systemd: Systemd = field(default_factory=Systemd)
    say: Callable[[str], None] = to_stderr
    seconds: float = 60.0
    programs: Path = field(default_factory=lambda: Path(sys.executable).parent)

    def program(self, name: str) -> Path:
        """A command of ours: the one beside the interpreter that runs this."""
        return self.programs / name

    def run(self, argv: Sequence[str | Path], seconds: float = 30.0, text: str = "") -> str:
        """A program's standard output. Raises NodeError with what it said, also when it takes longer than `seconds`."""
        words = " ".join(map(str, argv))
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                input=text,
                # A Ctrl-C at the terminal is for us alone, who undo what the program did.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise NodeError(f"`{words}` did not end within {seconds:g} s; it was stopped") from None
        except OSError as fault:
            raise NodeError(f"`{words}` cannot be run: {fault}") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise NodeError(f"`{words}` failed: {said or f'exit code {done.returncode}'}")
        return done.stdout

    def find(self, name: str) -> Path | None:
        """A program of the node, on PATH or in the usual folders."""
        for folder in (
            *os.environ.get("PATH", "").split(":"),
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ):
            if folder.startswith("/") and os.access(Path(folder, name), os.X_OK):
                return Path(folder, name)
        return None

    def wait(self, condition: Callable[[], bool], seconds: float, every: float = 0.25) -> bool:
        """Whether the condition came true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(every)
        return True
