"""What the commands print: tables for people, one JSON document for programs, progress on stderr."""

import json
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from cni_plugin.net.findings import Finding

# What a pipe gets is for grep and awk: one line per thing, however long.
_PIPE_WIDTH = 1000
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_PATIENCE_SECONDS = 1.0


class Output:
    """Standard output of one command. rich colours terminals only, and none where NO_COLOR is set."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)

    def document(self, value: dict[str, Any]) -> None:
        """The one JSON document of a command."""
        print(json.dumps(value, indent=2, sort_keys=False))

    def line(self, text: str, style: str = "") -> None:
        """One line, folded at the width of a terminal."""
        self.console.print(Text(text, style=style), overflow="fold")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns no wider than needed; on a terminal cells fold, so that nothing is cut."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for position, head in enumerate(heads):
            # What names a thing stays whole: to be copied, and to be found by the eye.
            table.add_column(head, overflow="fold", no_wrap=position == 0 or not self.console.is_terminal)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)

    def findings(self, findings: Sequence[Finding]) -> None:
        """A line per finding: severity, who found it, what, and the command that mends it.

        On a terminal the command has a line of its own, which the terminal alone breaks: it can be copied whole.
        """
        for each in findings:
            text = Text.assemble((f"{each.severity:<7}", _COLOURS[each.severity]), f" {each.check}: {each.what}")
            fix = Text.assemble(("-> ", "dim"), (each.fix, "bold")) if each.fix else Text()
            if self.console.is_terminal:
                self.console.print(text, overflow="fold")
                if fix:
                    self.console.print(Text("        ").append_text(fix), soft_wrap=True)
            else:
                self.console.print(Text(" ").join([text, fix]) if fix else text, soft_wrap=True)


class Progress:
    """Says on stderr what is being waited for, once it takes longer than a second."""

    def __init__(self, what: str) -> None:
        self._what, self._lock = what, threading.Lock()
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._shown = False
        self._timer = threading.Timer(_PATIENCE_SECONDS, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._shown = True  # a timer that fires now finds nothing to do
            if self._status is not None:
                self._status.stop()

    def step(self, what: str) -> None:
        """What is done now."""
        with self._lock:
            self._what = what
            if self._status is not None:
                self._status.update(what)
            elif self._shown:
                self._console.print(f"... {what}")

    def _show(self) -> None:
        with self._lock:
            if self._shown:
                return
            self._shown = True
            if self._console.is_terminal:
                self._status = self._console.status(self._what)
                self._status.start()
            else:
                self._console.print(f"... {self._what}")
