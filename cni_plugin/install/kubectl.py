"""The cluster's API through the node's own kubectl: bounded calls, and errors that say which command said what.

kubectl and admin.conf are what every kubeadm control-plane node has; nothing here opens a connection of its own.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cni_plugin.install.site import NodeError

REQUEST_SECONDS = 15
# Some calls make several requests; a kubectl that hangs nevertheless is ended.
CALL_SECONDS = 60.0


class KubectlError(NodeError):
    """A kubectl call failed; `missing` when the API says that the object does not exist."""

    def __init__(self, text: str, details: str = "", missing: bool = False) -> None:
        super().__init__(text, details)
        self.missing = missing


class Kubectl:
    """One cluster, as `kubeconfig` reaches it."""

    def __init__(self, kubeconfig: Path, program: str = "kubectl", seconds: float = CALL_SECONDS) -> None:
        self.kubeconfig = kubeconfig
        self._program = program
        self._seconds = seconds

    def text(self, *arguments: str, stdin: str = "") -> str:
        """What the command prints. Raises KubectlError with the command and its last line."""
        command = [
            self._program,
            f"--kubeconfig={self.kubeconfig}",
            f"--request-timeout={REQUEST_SECONDS}s",
            *arguments,
        ]
        # stdin may hold what is nobody's business, so messages have the arguments alone.
        words = " ".join(["kubectl", *arguments])
        details = f"on this node: kubectl --kubeconfig {self.kubeconfig} {' '.join(arguments)}"
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._seconds,
                check=False,
                # A Ctrl-C at the terminal is for whoever installs, which then undoes this step.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise KubectlError(f"`{words}` did not end within {self._seconds:g} s", details) from None
        except OSError as fault:
            raise KubectlError(
                f"{self._program} cannot be run: {fault.strerror}",
                "a control-plane node of kubeadm or kind has it; run this there",
            ) from None
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise KubectlError(f"`{words}` failed: {last}", details, missing="(NotFound)" in last)
        return done.stdout

    def json(self, *arguments: str) -> dict[str, Any]:
        """The object or list that the command prints with `-o json`."""
        answer = self.text(*arguments, "-o", "json")
        try:
            value = json.loads(answer)
        except ValueError as fault:
            raise KubectlError(f"`kubectl {' '.join(arguments)} -o json` answered no JSON: {fault}") from None
        if not isinstance(value, dict):
            raise KubectlError(f"`kubectl {' '.join(arguments)} -o json` answered no object but {type(value).__name__}")
        return value

    def find(self, *arguments: str) -> dict[str, Any] | None:
        """One object, or None where there is none."""
        try:
            return self.json("get", *arguments)
        except KubectlError as fault:
            if fault.missing:
                return None
            raise

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        found = self.json("get", *arguments).get("items")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def wait(condition: Callable[[], bool], seconds: float, every: float = 1.0) -> bool:
    """Whether the condition came true in time; it is asked at least once."""
    deadline = time.monotonic() + seconds
    while not condition():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(every, left))
    return True


def field(value: object, *names: str) -> Any:
    """A field inside objects, None where one of them lacks it."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def strings(value: object) -> list[str]:
    """The strings of a list, or none."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def names(objects: Iterable[dict[str, Any]]) -> Sequence[str]:
    """What the objects are called."""
    return [str(field(each, "metadata", "name")) for each in objects]
