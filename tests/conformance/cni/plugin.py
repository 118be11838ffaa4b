"""One execution of a plugin: environment and stdin in; exit code, stdout, stderr out. Nothing else is known of it."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.netns import Place

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# SPEC.md, sections 5 (1-7, 11) and 2 (50, 51), and libcni's pkg/types/types.go: 8, and 999 for an untyped error.
SPECIFIED_CODES = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51, 999})
LONGEST = 30.0


@dataclass(frozen=True, repr=False)
class Answer:
    """What one execution gave. The methods assert, with what was seen in the message."""

    verb: str
    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    plugin: str

    def __str__(self) -> str:
        return (
            f"{self.plugin} {self.verb}: exit code {self.exit_code}, stdout {self.stdout[:600]!r}, "
            f"stderr {self.stderr[-600:]!r}"
        )

    __repr__ = __str__

    @property
    def succeeded(self) -> bool:
        """Whether the exit code says so."""
        return self.exit_code == 0

    @property
    def document(self) -> dict[str, Any]:
        """stdout as one JSON object."""
        try:
            found = json.loads(self.stdout)
        except ValueError as fault:
            raise AssertionError(f"stdout is no JSON document ({fault}): {self}") from None
        assert isinstance(found, dict), f"stdout is no JSON object: {self}"
        return found

    @property
    def code(self) -> int:
        """The code of an error document."""
        code = self.document.get("code")
        assert isinstance(code, int), f"an error has an integer `code`: {self}"
        return code

    @property
    def message(self) -> str:
        """`msg` and `details` of an error document."""
        return f"{self.document.get('msg', '')} {self.document.get('details', '')}"

    def ok(self) -> "Answer":
        """Assert success, and that stdout holds what the verb gives: one document for ADD and VERSION, else nothing."""
        assert self.succeeded, f"expected success: {self}"
        if self.verb in ("ADD", "VERSION"):
            assert self.document
        else:
            assert self.stdout.strip() == "", f"{self.verb} prints nothing on success: {self}"
        return self

    def refused(self, *codes: int, says: Sequence[str] = ()) -> "Answer":
        """Assert a well-formed error, with one of these codes (any, when none is given) and these words in its text."""
        assert not self.succeeded, f"expected an error: {self}"
        assert self.code in SPECIFIED_CODES or self.code >= 100, f"code {self.code} is reserved by the spec: {self}"
        assert isinstance(self.document.get("msg"), str), f"an error has a text `msg`: {self}"
        assert self.document["msg"], f"an error says what is wrong in `msg`: {self}"
        assert not codes or self.code in codes, f"expected code {' or '.join(map(str, codes))}: {self}"
        for word in says:
            assert word in self.message, f"expected {word!r} in the message: {self}"
        return self

    def pure(self) -> "Answer":
        """Assert what holds for every execution: stdout is empty or one JSON object, and an error is a full one."""
        if self.succeeded:
            return self.ok() if self.verb in ("ADD", "VERSION") else self
        return self.refused()

    @property
    def result(self) -> dict[str, Any]:
        """The result of a successful ADD."""
        return self.ok().document

    @property
    def addresses(self) -> list[str]:
        """Addresses of a result without their prefix lengths, whatever its version."""
        result = self.result
        old = [result[key]["ip"] for key in ("ip4", "ip6") if key in result]
        return [text.partition("/")[0] for text in old or [entry["address"] for entry in result.get("ips", [])]]

    @property
    def address(self) -> str:
        """The first of them."""
        assert self.addresses, f"the result holds no address: {self}"
        return self.addresses[0]


class Running:
    """A plugin that has been started; `finish()` waits for it. It leads a process group, its delegates included."""

    def __init__(
        self,
        place: Place,
        executable: Path,
        environment: Mapping[str, str],
        stdin: bytes,
        wrap: Sequence[str] = (),
    ) -> None:
        self._verb = environment.get("CNI_COMMAND", "")
        self._name = executable.name
        self._begun = time.monotonic()
        self.process = subprocess.Popen(
            place.command([*wrap, executable]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": SEARCH, **environment},
            start_new_session=True,
        )
        self._stdin = stdin

    def feed(self) -> None:
        """Write stdin and close it, without waiting for the end: for those who look at the process meanwhile."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(self._stdin)
            self.process.stdin.close()
        self.process.stdin = None

    def finish(self, seconds: float = LONGEST) -> Answer:
        """The answer. A plugin that runs longer than `seconds` is killed, and the case fails."""
        try:
            written = self._stdin if self.process.stdin is not None else None
            stdout, stderr = self.process.communicate(written, timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._name} {self._verb} had not answered after {seconds:g} s") from None
        return Answer(
            self._verb,
            self.process.returncode,
            stdout.decode(errors="surrogateescape"),
            stderr.decode(errors="replace"),
            time.monotonic() - self._begun,
            self._name,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its delegates."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.process.communicate()
