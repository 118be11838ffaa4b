"""`./install.sh kind`, called as a person calls it, with the tests' engine as its docker."""

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.images import REPOSITORY
from tests.lab.kindnode import Cluster
from tests.lab.waiting import wait_until

POD_CIDR = "10.244.0.0/16"


@dataclass(frozen=True)
class Done:
    """One finished call."""

    code: int
    said: str
    log: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.said}\n--- log\n{self.log[-6000:]}"


class Host:
    """The machine on which a person calls ./install.sh for one cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder
        self._calls = 0

    def call(self, *arguments: str | Path, code: int | None = 0, timeout: float = 300) -> Done:
        """Run to its end; with another exit code than `code` the test fails with all that was said."""
        with self.start(*arguments) as running:
            return running.wait(timeout, code)

    def install(self, payload: Path, *arguments: str | Path, code: int | None = 0) -> Done:
        """Install on both nodes, the pod CIDRs split between them."""
        return self.call("--payload", payload, "--pod-cidr", POD_CIDR, *arguments, code=code)

    def start(self, *arguments: str | Path) -> "Running":
        """Start it, in a process group of its own as a terminal does."""
        self._calls += 1
        folder = self._folder / f"call-{self._calls}"
        folder.mkdir()
        command = ["kind", "--name", self.cluster.name, "--provider", "docker", "--log", str(folder / "log")]
        return Running([str(REPOSITORY / "install.sh"), *command, *map(str, arguments)], self.cluster, folder)


class Running:
    """A call that may still run; stdout and stderr come together, as on a terminal."""

    def __init__(self, command: list[str], cluster: Cluster, folder: Path) -> None:
        self._log = folder / "log"
        self._said = folder / "said"
        with self._said.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**cluster.engine.environment, "TMPDIR": str(folder)},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A test that failed meanwhile does not leave it running: as Ctrl-C, so that it undoes itself."""
        if self._process.poll() is None:
            self.interrupt()
            self.wait(180, None)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self._said.read_text(errors="replace")

    def wait_for(self, condition: Callable[[str], bool], seconds: float, what: str) -> None:
        """Until what it printed fulfils the condition."""

        def fulfilled() -> bool:
            if condition(self.said):
                return True
            assert self._process.poll() is None, f"it ended before {what}:\n{self.said}"
            return False

        wait_until(fulfilled, seconds, what, hint=lambda: self.said)

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of everything the call runs on this machine."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def wait(self, timeout: float, code: int | None) -> Done:
        """Its end."""
        try:
            self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end within {timeout:g} s:\n{self.said}") from None
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        done = Done(self._process.returncode, self.said, log)
        assert code is None or done.code == code, str(done)
        return done
