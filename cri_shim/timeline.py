"""One waterfall per pod: the shim's line of every RPC and the plugin's line of every call, joined by sandbox id.

The lines may come from one file or several, in any order; what is neither is passed over. The shim's lines say when a
call ended to the millisecond. The plugin's have whole seconds: its calls are placed inside the RPC that they belong
to, as late as their second allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# During which RPC a runtime makes which plugin call.
HOSTS = {"ADD": ("RunPodSandbox",), "DEL": ("StopPodSandbox", "RemovePodSandbox")}
# What only looks; kubelet asks so all the time.
LOOKS = frozenset(("PodSandboxStatus", "ContainerStatus", "ContainerStats", "PodSandboxStats"))
# Lines of the shim beside those of calls that are about one pod.
MARKS = {"exit": "exit", "out-of-memory": "out of memory"}
WHOLE_SECOND = 1.0


@dataclass(slots=True)
class Span:
    """Something that took time. `began` is in seconds since the epoch; `kind` is rpc, plugin or phase."""

    kind: str
    label: str
    began: float
    seconds: float
    detail: str = ""
    failed: bool = False
    shim_seconds: float = 0.0
    inside: list[Span] = field(default_factory=list)

    @property
    def ended(self) -> float:
        """Seconds since the epoch."""
        return self.began + self.seconds


@dataclass(slots=True)
class Mark:
    """Something that happened to a pod at one instant, in seconds since the epoch."""

    when: float
    label: str
    detail: str = ""


@dataclass(slots=True)
class Timeline:
    """A pod sandbox's life: its calls in the order they began. `sandbox_id` is "" for one that never was."""

    namespace: str = ""
    name: str = ""
    uid: str = ""
    sandbox_id: str = ""
    spans: list[Span] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    @property
    def pod(self) -> str:
        """namespace/name, or the beginning of the id where the name is not known."""
        return f"{self.namespace}/{self.name}" if self.name else self.sandbox_id[:13]

    @property
    def began(self) -> float:
        """When the first call began or the first event was."""
        return min([span.began for span in self.spans] + [mark.when for mark in self.marks])

    @property
    def ended(self) -> float:
        """When the last call ended."""
        return max([span.ended for span in self.spans] + [mark.when for mark in self.marks])


def records(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines."""
    for line in lines:
        if line.startswith("{"):
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the end of a file that is being written
            if isinstance(record, dict):
                yield record


def moment(record: Mapping[str, Any]) -> float | None:
    """A record's `time` in seconds since the epoch; None when it has none that can be read."""
    try:
        return datetime.fromisoformat(str(record["time"])).timestamp()
    except (KeyError, ValueError):
        return None


def is_call(record: Mapping[str, Any]) -> bool:
    """Whether this is the shim's line of one RPC."""
    return record.get("event") == "call" and "method" in record and "duration_ms" in record


def timelines(lines: Iterable[str], looks: bool = False) -> list[Timeline]:
    """The pods in these lines, by when they began; with `looks` also the calls that only look at them."""
    pods = _Pods()
    plugin = []
    for record in records(lines):
        when = moment(record)
        if when is None:
            continue
        if is_call(record):
            name = str(record["method"]).rpartition("/")[2]
            timeline = pods.of(record)
            if timeline is not None and (looks or name not in LOOKS):
                timeline.spans.append(_rpc(record, name, when))
        elif record.get("event") in MARKS:
            timeline = pods.of(record)
            if timeline is not None:
                timeline.marks.append(_mark(record, when))
        elif "containerID" in record and "command" in record and "total_ms" in record:
            plugin.append((when, record))
    for when, record in plugin:
        timeline = pods.of_plugin(record)
        if timeline is not None:
            _place(timeline, _plugin(record, when), when, str(record["command"]))
    found = [timeline for timeline in pods.all if timeline.spans]
    for timeline in found:
        timeline.spans.sort(key=lambda span: span.began)
        timeline.marks.sort(key=lambda mark: mark.when)
    return sorted(found, key=lambda timeline: timeline.began)


def chosen(found: Iterable[Timeline], pod: str) -> list[Timeline]:
    """Those of a pod, given as NAME, NAMESPACE/NAME, uid, or the beginning of a sandbox id."""
    return [
        each
        for each in found
        if pod in (each.name, each.pod, each.uid) or (len(pod) >= 6 and each.sandbox_id.startswith(pod))
    ]


class _Pods:
    """Finds the timeline a line belongs to: by sandbox id, else the newest of the pod's uid or name."""

    def __init__(self) -> None:
        self.all: list[Timeline] = []
        self._by_id: dict[str, Timeline] = {}
        self._by_pod: dict[str, Timeline] = {}

    def of(self, record: Mapping[str, Any]) -> Timeline | None:
        sandbox_id, uid = str(record.get("sandbox_id", "")), str(record.get("pod_uid", ""))
        timeline = self._find(sandbox_id, uid)
        if timeline is not None:
            timeline.namespace = timeline.namespace or str(record.get("pod_namespace", ""))
            timeline.name = timeline.name or str(record.get("pod_name", ""))
            timeline.uid = timeline.uid or uid
            if timeline.name:
                self._by_pod[timeline.pod] = timeline
        return timeline

    def of_plugin(self, record: Mapping[str, Any]) -> Timeline | None:
        """An ADD that failed has the id of a sandbox that no answer ever named: then the pod's name decides."""
        found = self._by_id.get(str(record["containerID"]))
        return found if found is not None else self._by_pod.get(str(record.get("pod", "")))

    def _find(self, sandbox_id: str, uid: str) -> Timeline | None:
        if sandbox_id in self._by_id:
            return self._by_id[sandbox_id]
        newest = self._by_pod.get(uid)
        if not sandbox_id and (not uid or newest is not None):
            return newest
        # A first RunPodSandbox that failed, and the one that succeeded, are one story.
        if newest is None or newest.sandbox_id:
            newest = Timeline(sandbox_id=sandbox_id)
            self.all.append(newest)
        newest.sandbox_id = sandbox_id
        if sandbox_id:
            self._by_id[sandbox_id] = newest
        if uid:
            self._by_pod[uid] = newest
        return newest


def _rpc(record: Mapping[str, Any], name: str, ended: float) -> Span:
    seconds = _seconds(record["duration_ms"])
    code = str(record.get("code", ""))
    return Span(
        kind="rpc",
        label=name,
        began=ended - seconds,
        seconds=seconds,
        detail="" if code == "OK" else f"{code} (by the {record.get('ended_by', 'runtime')})",
        failed=code != "OK",
        shim_seconds=_seconds(record.get("shim_ms", 0)),
    )


def _mark(record: Mapping[str, Any], when: float) -> Mark:
    container = record.get("container_name") or ("" if "container_id" in record else "sandbox")
    code = record.get("exit_code")
    happened = moment({"time": record.get("happened", "")})
    return Mark(
        when=when if happened is None else happened,
        label=MARKS[str(record["event"])],
        detail=f"{container}{'' if code is None else f' with {code}'}".strip(),
    )


def _plugin(record: Mapping[str, Any], when: float) -> Span:
    code = record.get("code", 0)
    phases = record.get("phases")
    span = Span(
        kind="plugin",
        label=f"CNI {record['command']} {record.get('ifname', '')}".strip(),
        began=when,
        seconds=_seconds(record["total_ms"]),
        detail=f"error {code}: {record.get('msg', '')}" if code else "",
        failed=bool(code),
    )
    for name, milliseconds in (phases if isinstance(phases, dict) else {}).items():
        span.inside.append(Span("phase", str(name), when, _seconds(milliseconds)))
    return span


def _place(timeline: Timeline, span: Span, second: float, command: str) -> None:
    def hosts(one: Span) -> bool:
        # DEL also undoes what an ADD that failed has done.
        undone = command == "DEL" and one.failed and one.label == "RunPodSandbox"
        return one.kind == "rpc" and (undone or one.label in HOSTS.get(command, ())) and _meets(one, second)

    candidates = sorted((one for one in timeline.spans if hosts(one)), key=lambda one: one.began)
    # Two of one kind in one second: the first belongs to the first RPC, the next to the next.
    free = [one for one in candidates if all(inner.label != span.label for inner in one.inside)]
    latest = second + WHOLE_SECOND
    if candidates:
        host = (free or candidates)[0]
        host.inside.append(span)
        latest = min(latest, host.ended)
        _move(span, max(host.began, latest - span.seconds))
    else:
        timeline.spans.append(span)
        _move(span, latest - span.seconds)


def _meets(rpc: Span, second: float) -> bool:
    return rpc.began < second + WHOLE_SECOND and rpc.ended >= second


def _move(span: Span, began: float) -> None:
    span.began = began
    for phase in span.inside:
        phase.began = began
        began += phase.seconds


def _seconds(milliseconds: Any) -> float:
    try:
        return max(0.0, float(milliseconds) / 1000)
    except (TypeError, ValueError):
        return 0.0
