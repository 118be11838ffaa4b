"""systemd's units, by systemctl: every call has a bound, and every failure shows the unit's last words.

SystemdError has what failed as its text and the next command as `details`. Nothing here decides whether a machine has
systemd: `available` tells, and whoever installs decides what that means.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# sd_booted(3): this folder is there exactly when systemd is the machine's init.
BOOTED = Path("/run/systemd/system")
# Longer than DefaultTimeoutStartSec and DefaultTimeoutStopSec (90 s each) together is nobody's business.
SECONDS = 190.0
ASK_SECONDS = 10.0
JOURNAL_LINES = 12

Run = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]


class SystemdError(Exception):
    """A unit did not do as it was told; `details` says what to look at."""

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


def run(command: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """The command's exit code, output and errors. OSError and subprocess.TimeoutExpired pass through."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
        # A Ctrl-C at the terminal is for whoever installs, which then undoes this step.
        start_new_session=True,
    )


class Systemd:
    """The units of one machine. Units are named with their suffix ("podwire-shim.service")."""

    def __init__(self, run: Run = run, booted: Path = BOOTED) -> None:
        self._run = run
        self._booted = booted

    def available(self) -> bool:
        """Whether systemd is this machine's init."""
        return self._booted.is_dir()

    def active(self, unit: str) -> bool:
        """Whether it runs (also while it reloads); False for a unit that is starting, failed or unknown."""
        return self.state(unit) in ("active", "reloading")

    def state(self, unit: str) -> str:
        """As `systemctl is-active` words it: active, activating, inactive, failed, unknown ..."""
        return self._ask("is-active", unit) or "unknown"

    def enabled(self, unit: str) -> bool:
        """Whether it is started with the machine."""
        return self._ask("is-enabled", unit) == "enabled"

    def known(self, unit: str) -> bool:
        """Whether there is such a unit file."""
        return self.show(unit, "LoadState") in ("loaded", "masked")

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, "" where it has none."""
        return self._ask("show", f"--property={name}", "--value", unit)

    def daemon_reload(self) -> None:
        """Read the unit files anew. Raises SystemdError."""
        self._do("daemon-reload", (), SECONDS)

    def enable_now(self, *units: str, seconds: float = SECONDS) -> None:
        """Start them, now and with the machine; returns when they are ready. Raises SystemdError."""
        self._do("enable --now", units, seconds)

    def disable_now(self, *units: str, seconds: float = SECONDS) -> None:
        """Stop them, now and for later; units that are not there are no fault. Raises SystemdError."""
        present = [unit for unit in units if self.known(unit)]
        if present:
            self._do("disable --now", present, seconds)
            # Else a unit that failed stays in the list of failed ones, even when its file has gone.
            self._run(("systemctl", "reset-failed", *present), ASK_SECONDS)

    def start(self, *units: str, seconds: float = SECONDS) -> None:
        """Start them; returns when they are ready. Raises SystemdError."""
        self._do("start", units, seconds)

    def stop(self, *units: str, seconds: float = SECONDS) -> None:
        """Stop them; returns when they have ended. Raises SystemdError."""
        self._do("stop", units, seconds)

    def restart(self, unit: str, seconds: float = SECONDS) -> None:
        """Stop and start it; returns when it is ready, which for Type=simple is at once. Raises SystemdError."""
        self._do("restart", (unit,), seconds)

    def reload(self, unit: str, seconds: float = SECONDS) -> None:
        """Its ExecReload; returns when that has ended. Raises SystemdError."""
        self._do("reload", (unit,), seconds)

    def stays(self, unit: str, seconds: float, every: float = 0.5) -> None:
        """Watch a unit that was just started for `seconds`; SystemdError as soon as it is not active, or was restarted.

        For units whose start says nothing, as kubelet's (Type=simple): it fails on a bad configuration a moment later.
        """
        deadline = time.monotonic() + seconds
        first = self.show(unit, "NRestarts")
        while True:
            state, restarts = self.state(unit), self.show(unit, "NRestarts")
            if state not in ("active", "reloading") or restarts != first:
                again = f" (systemd started it {restarts} times again)" if restarts != first else ""
                raise self._failure(f"{unit} did not stay up: it is {state}{again}", (unit,))
            if time.monotonic() >= deadline:
                return
            time.sleep(every)

    def _ask(self, *arguments: str) -> str:
        try:
            return self._run(("systemctl", *arguments), ASK_SECONDS).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""

    def _do(self, verb: str, units: Sequence[str], seconds: float) -> None:
        command = ("systemctl", *verb.split(), *units)
        what = " ".join(command)
        try:
            done = self._run(command, seconds)
        except OSError as error:
            raise SystemdError(f"{what}: {error}", "is systemd this machine's init?") from error
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"{what}: not done after {seconds:g} s", units) from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
            raise self._failure(f"{what}: {said}", units)

    def _failure(self, text: str, units: Sequence[str]) -> SystemdError:
        """With the last lines of the journal of each unit that does not run."""
        failed = [unit for unit in units if not self.active(unit)] or list(units)
        for unit in failed:
            lines = self.last_words(unit)
            if lines:
                text += f"\n  last lines of {unit}:" + "".join(f"\n    {line}" for line in lines)
        return SystemdError(text, "; ".join(f"journalctl -u {unit} -n 50" for unit in failed))

    def last_words(self, unit: str, lines: int = JOURNAL_LINES) -> list[str]:
        """What it last wrote to the journal; [] where there is none."""
        command = ("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={lines}", f"--unit={unit}")
        try:
            done = self._run(command, ASK_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return []
        return done.stdout.splitlines()[-lines:] if done.returncode == 0 else []
