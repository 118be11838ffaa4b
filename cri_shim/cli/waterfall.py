"""A pod's timeline on the terminal: one row per call, indented by what happened inside it, with a bar."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cri_shim.timeline import Mark, Span, Timeline

BAR = 32
STYLES = {"rpc": "cyan", "plugin": "magenta", "phase": "dim"}


def show(console: Console, found: Sequence[Timeline]) -> None:
    """Print each pod's waterfall, and what of all calls was the shim's own time."""
    for timeline in found:
        console.print(Text(f"\n{timeline.pod}", "bold"), Text(timeline.sandbox_id[:13], "dim"))
        console.print(_table(timeline))
    own = [span.shim_seconds * 1000 for timeline in found for span in timeline.spans if span.kind == "rpc"]
    if own:
        console.print(
            f"\n{len(found)} pods, {len(own)} calls; in the shim {sum(own):.1f} ms, median "
            f"{statistics.median(own):.2f} ms per call"
        )


def _table(timeline: Timeline) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=True)
    table.add_column("at ms", justify="right", style="dim")
    table.add_column("ms", justify="right")
    table.add_column("call", no_wrap=True)
    table.add_column("", no_wrap=True, width=BAR)
    table.add_column("", overflow="fold")
    began, whole = timeline.began, max(timeline.ended - timeline.began, 1e-6)
    for depth, row in _rows(timeline):
        if isinstance(row, Mark):
            at = (row.when - began) * 1000
            table.add_row(f"{at:.0f}", "", Text(row.label, "yellow"), _bar(row.when, 0, began, whole), Text(row.detail))
            continue
        style = "red" if row.failed else STYLES[row.kind]
        table.add_row(
            f"{(row.began - began) * 1000:.0f}",
            f"{row.seconds * 1000:.1f}",
            Text("  " * depth + row.label, style),
            Text(_bar(row.began, row.seconds, began, whole), style),
            Text(row.detail),
        )
    return table


def _rows(timeline: Timeline) -> Iterator[tuple[int, Span | Mark]]:
    top: list[Span | Mark] = [*timeline.spans, *timeline.marks]
    for each in sorted(top, key=lambda one: one.when if isinstance(one, Mark) else one.began):
        yield 0, each
        if isinstance(each, Span):
            yield from _inside(each.inside, 1)


def _inside(spans: Iterable[Span], depth: int) -> Iterator[tuple[int, Span]]:
    for span in spans:
        yield depth, span
        yield from _inside(span.inside, depth + 1)


def _bar(at: float, seconds: float, began: float, whole: float) -> str:
    start = min(BAR - 1, int((at - began) / whole * BAR))
    length = max(1, round(seconds / whole * BAR))
    return " " * start + ("|" if seconds == 0 else "#" * min(length, BAR - start))
