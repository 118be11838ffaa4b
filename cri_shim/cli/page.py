"""Timelines as one HTML page that needs nothing else: no network, no file, and its policy forbids both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from cri_shim.timeline import Mark, Span, Timeline

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #1c2430; background: #fff; }
h1 { font-size: 1.4em; }
h2 { font-size: 1.1em; margin: 1.5em 0 .3em; }
h2 small, .when { color: #667; font-weight: normal; }
.row { display: flex; align-items: center; min-height: 1.6em; }
.name { width: 17em; flex: none; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ms { width: 6em; flex: none; text-align: right; padding-right: 1em; font-variant-numeric: tabular-nums; }
.lane { position: relative; flex: 1; height: 1.1em; background: #f2f4f7; }
.bar { position: absolute; top: 0; bottom: 0; min-width: 2px; }
.rpc { background: #2b7fb8; } .plugin { background: #a24b9d; } .phase { background: #d7a9d4; }
.failed { background: #c0392b; } .mark { background: #d68910; width: 3px; }
.detail { width: 22em; flex: none; padding-left: 1em; color: #667; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { color: #dde3ea; background: #14181d; } .lane { background: #222a33; } h2 small, .when, .detail { color: #9ab; }
}
"""
# Counts what the browser has really laid out, also after the list is narrowed down.
SCRIPT = """
const find = document.getElementById('find'), shown = document.getElementById('shown');
function narrow() {
  for (const pod of document.querySelectorAll('section'))
    pod.hidden = !pod.dataset.pod.includes(find.value);
  const bars = [...document.querySelectorAll('.bar')].filter(bar => bar.getBoundingClientRect().width > 0);
  const pods = [...document.querySelectorAll('section')].filter(pod => !pod.hidden);
  shown.textContent = `${pods.length} pods, ${bars.length} bars`;
}
find.addEventListener('input', narrow);
narrow();
"""


def page(found: Sequence[Timeline]) -> str:
    """The whole document."""
    pods = "".join(_section(timeline) for timeline in found)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width">
<title>podwire: timeline of {len(found)} pods</title><style>{STYLE}</style></head>
<body><h1>Timeline of {len(found)} pods</h1>
<p><input id="find" placeholder="namespace/pod"> <span id="shown"></span></p>
<p>Blue is an RPC, purple the plugin inside it with its phases, red what failed. The plugin's log has whole seconds:
its bars are placed inside the RPC that they belong to.</p>
{pods}<script>{SCRIPT}</script></body></html>
"""


def _section(timeline: Timeline) -> str:
    began = datetime.fromtimestamp(timeline.began, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    pod = escape(timeline.pod, quote=True)
    head = f'<h2>{pod} <small>{escape(timeline.sandbox_id[:13])} <span class="when">{began}</span></small></h2>'
    return f'<section data-pod="{pod}">{head}{"".join(_rows(timeline))}</section>\n'


def _rows(timeline: Timeline) -> Iterator[str]:
    began, whole = timeline.began, max(timeline.ended - timeline.began, 1e-6)

    def row(name: str, amount: str, classes: str, at: float, seconds: float, detail: str, depth: int) -> str:
        left, width = (at - began) / whole * 100, seconds / whole * 100
        style = f"left:{min(left, 99.8):.3f}%" + (f";width:{width:.3f}%" if seconds else "")
        return (
            f'<div class="row"><span class="name" style="padding-left:{depth}em">{escape(name)}</span>'
            f'<span class="ms">{amount}</span>'
            f'<span class="lane"><span class="bar {classes}" style="{style}" '
            f'title="{escape(name, quote=True)}"></span></span>'
            f'<span class="detail">{escape(detail)}</span></div>'
        )

    def span_rows(span: Span, depth: int) -> Iterator[str]:
        classes = f"{span.kind} failed" if span.failed else span.kind
        yield row(span.label, f"{span.seconds * 1000:.1f}", classes, span.began, span.seconds, span.detail, depth)
        for inner in span.inside:
            yield from span_rows(inner, depth + 1)

    top: list[Span | Mark] = [*timeline.spans, *timeline.marks]
    for each in sorted(top, key=lambda one: one.when if isinstance(one, Mark) else one.began):
        if isinstance(each, Mark):
            yield row(each.label, "", "mark", each.when, 0, each.detail, 0)
        else:
            yield from span_rows(each, 0)
