"""One table per run: the time of every RPC and, inside those that execute the plugin, the plugin's own phases."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab.cri import Timing

# Which plugin calls happen inside which RPC. containerd calls DEL again when a stopped pod is removed.
_INSIDE = {"RunPodSandbox": "ADD", "StopPodSandbox": "DEL", "RemovePodSandbox": "DEL"}


def waterfall(timings: Sequence[Timing], calls: Sequence[Mapping[str, Any]], shim_log: Path) -> Iterator[str]:
    """The lines of the table. A plugin call belongs to a pod by the container id it shares with the pod's ADD."""
    pod_of = {call["containerID"]: call["pod"].rpartition("/")[2] for call in calls if call.get("pod")}
    waiting = [(call["command"], pod_of.get(call["containerID"], ""), call) for call in calls]
    yield ""
    yield f"  {'RPC':<20} {'of':<12} {'ms':>8}   the plugin inside it, ms by phase"
    for timing in timings:
        inside = ""
        wanted = (_INSIDE.get(timing.method), timing.subject)
        found = next((item for item in waiting if item[:2] == wanted), None)
        if found is not None:
            waiting.remove(found)
            inside = _phases(found[2])
        yield f"  {timing.method:<20} {timing.subject:<12} {timing.seconds * 1000:8.1f}   {inside}".rstrip()
    yield f"  {'total':<20} {f'{len(timings)} calls':<12} {sum(t.seconds for t in timings) * 1000:8.1f}"
    own = [entry["shim_ms"] for entry in _shim_calls(shim_log)[-len(timings) :]]
    if own:
        median = statistics.median(own)
        yield f"  {'of it in the shim':<20} {f'{len(own)} calls':<12} {sum(own):8.1f}   median {median:.2f} per call"


def _phases(call: Mapping[str, Any]) -> str:
    phases = " ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in call.get("phases", {}).items())
    return f"{call['command']} {call['total_ms']:.1f}: {phases}"


def _shim_calls(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    entries = []
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.get("event") == "call" and "shim_ms" in entry:
                entries.append(entry)
    return entries
