"""podwire-cri top: which calls pass, how many a second, how long they take, and how they fail."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cri_shim.cli import source
from cri_shim.timeline import is_call, moment, records


@dataclass(frozen=True, slots=True)
class Row:
    """One method in the window; latencies are milliseconds."""

    method: str
    per_second: float
    p50: float
    p99: float
    most: float
    shim_p50: float
    errors: Mapping[str, int]


def rows(calls: Iterable[Mapping[str, Any]], seconds: float) -> list[Row]:
    """One per method, the busiest first; `seconds` is what the calls were gathered in."""
    by_method: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for call in calls:
        by_method[str(call["method"]).rpartition("/")[2]].append(call)
    made = []
    for method, each in by_method.items():
        durations = sorted(float(call["duration_ms"]) for call in each)
        errors: dict[str, int] = defaultdict(int)
        for call in each:
            if call.get("code") != "OK":
                errors[str(call.get("code"))] += 1
        shim = sorted(float(call.get("shim_ms", 0)) for call in each)
        latencies = (quantile(durations, 0.5), quantile(durations, 0.99), durations[-1], quantile(shim, 0.5))
        made.append(Row(method, len(each) / seconds, *latencies, dict(errors)))
    return sorted(made, key=lambda row: (-row.per_second, row.method))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of a sorted, non-empty sequence."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(made: Sequence[Row], seconds: float) -> Table:
    """Calls of the last `seconds`."""
    made_table = Table(box=None, title=f"calls of {seconds:g} s", title_justify="left")
    made_table.add_column("method", no_wrap=True)
    for heading in ("calls/s", "p50 ms", "p99 ms", "max ms", "shim p50"):
        made_table.add_column(heading, justify="right", no_wrap=True)
    made_table.add_column("errors")
    for row in made:
        errors = ", ".join(f"{code} {count}" for code, count in sorted(row.errors.items()))
        numbers = (
            f"{row.per_second:.2f}",
            f"{row.p50:.1f}",
            f"{row.p99:.1f}",
            f"{row.most:.1f}",
            f"{row.shim_p50:.2f}",
        )
        made_table.add_row(row.method, *numbers, f"[red]{errors}[/red]" if errors else "")
    return made_table


def once(console: Console, lines: Iterable[str], seconds: float) -> None:
    """One table of the `seconds` before the newest line."""
    calls = _calls(lines)
    newest = max((when for when, _ in calls), default=0.0)
    console.print(table(rows((call for when, call in calls if when > newest - seconds), seconds), seconds))


def live(console: Console, files: Sequence[str], seconds: float, every: float) -> None:
    """Refresh until interrupted; the window ends now."""
    tails = [source.Tail(file) for file in files]
    kept: list[tuple[float, dict[str, Any]]] = []
    with Live(console=console, auto_refresh=False, screen=True) as screen:
        while True:
            if tails:
                kept += [one for tail in tails for one in _calls(tail.new())]
            else:
                kept = _calls(source.journal(f"-{math.ceil(seconds)}s"))
            now = time.time()
            kept = [(when, call) for when, call in kept if when > now - seconds]
            screen.update(table(rows((call for _, call in kept), seconds), seconds), refresh=True)
            time.sleep(every)


def _calls(lines: Iterable[str]) -> list[tuple[float, dict[str, Any]]]:
    found = ((moment(record), record) for record in records(lines) if is_call(record))
    return [(when, record) for when, record in found if when is not None]
