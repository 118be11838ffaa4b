"""Lines of the shim and of the plugin become one story per pod."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cri_shim.timeline import Span, Timeline, chosen, timelines

SANDBOX, CONTAINER = "5a" * 32, "c0" * 32
WEB = {"pod_namespace": "shop", "pod_name": "web", "pod_uid": "uid-1"}


def rpc(method: str, time: str, duration_ms: float, **more: Any) -> str:
    record = {"time": f"2026-01-01T00:00:{time}Z", "event": "call", "method": f"/runtime.v1.RuntimeService/{method}"}
    return json.dumps({**record, "code": "OK", "duration_ms": duration_ms, "shim_ms": 0.2, **more})


def plugin(command: str, second: str, total_ms: float, container: str = SANDBOX, **more: Any) -> str:
    record = {"time": f"2026-01-01T00:00:{second}Z", "command": command, "containerID": container, "ifname": "eth0"}
    phases = {"start": total_ms / 4, "wiring": total_ms * 3 / 4}
    return json.dumps({**record, "code": 0, "total_ms": total_ms, "phases": phases, **more})


LIFE = [
    rpc("RunPodSandbox", "10.500", 100, **WEB, sandbox_id=SANDBOX),
    rpc("StartContainer", "10.800", 50, **WEB, sandbox_id=SANDBOX, container_id=CONTAINER),
    rpc("PodSandboxStatus", "10.900", 1, **WEB, sandbox_id=SANDBOX),
    rpc("StopPodSandbox", "11.300", 100, **WEB, sandbox_id=SANDBOX),
    rpc("RemovePodSandbox", "11.500", 50, **WEB, sandbox_id=SANDBOX),
    rpc("ListContainers", "11.600", 5),
    plugin("ADD", "10", 40),
    plugin("DEL", "11", 20),
    plugin("DEL", "11", 4),
]


def told(spans: list[Span]) -> list[tuple[str, list[str]]]:
    return [(span.label, [inner.label for inner in span.inside]) for span in spans]


def only(lines: list[str]) -> Timeline:
    (timeline,) = timelines(lines)
    return timeline


@pytest.mark.parametrize("order", [LIFE, LIFE[::-1]], ids=["shim-first", "newest-first"])
def test_plugin_calls_are_inside_the_rpc_that_made_them(order: list[str]) -> None:
    timeline = only(order)
    assert (timeline.pod, timeline.uid, timeline.sandbox_id) == ("shop/web", "uid-1", SANDBOX)
    assert told(timeline.spans) == [
        ("RunPodSandbox", ["CNI ADD eth0"]),
        ("StartContainer", []),
        ("StopPodSandbox", ["CNI DEL eth0"]),
        ("RemovePodSandbox", ["CNI DEL eth0"]),
    ]


def test_a_life_within_a_second_gives_run_no_del() -> None:
    lines = [
        rpc("RunPodSandbox", "10.200", 100, **WEB, sandbox_id=SANDBOX),
        rpc("StopPodSandbox", "10.400", 100, **WEB, sandbox_id=SANDBOX),
        rpc("RemovePodSandbox", "10.600", 50, **WEB, sandbox_id=SANDBOX),
        *(plugin("ADD", "10", 40), plugin("DEL", "10", 20), plugin("DEL", "10", 4)),
    ]
    assert [inside for _, inside in told(only(lines).spans)] == [["CNI ADD eth0"], ["CNI DEL eth0"], ["CNI DEL eth0"]]


def test_a_run_that_failed_has_the_del_that_undid_its_add() -> None:
    failed = rpc("RunPodSandbox", "10.500", 100, **WEB, code="UNKNOWN")
    lines = [failed, plugin("ADD", "10", 40, code=11, pod="shop/web"), plugin("DEL", "10", 4, pod="shop/web")]
    assert told(only(lines).spans) == [("RunPodSandbox", ["CNI ADD eth0", "CNI DEL eth0"])]


def test_a_plugin_call_and_its_phases_lie_within_their_rpc() -> None:
    run = only(LIFE).spans[0]
    (add,) = run.inside
    start, wiring = add.inside
    assert run.began <= add.began == start.began < wiring.began < wiring.ended <= run.ended + 1e-6
    assert (round(start.seconds, 6), round(wiring.seconds, 6)) == (0.01, 0.03)


def test_calls_that_only_look_are_shown_when_asked_for() -> None:
    assert "PodSandboxStatus" in [span.label for span in timelines(LIFE, looks=True)[0].spans]


def test_an_add_that_failed_is_found_by_the_pods_name() -> None:
    failed = rpc("RunPodSandbox", "10.500", 100, **WEB, code="UNKNOWN", ended_by="runtime")
    lines = [failed, plugin("ADD", "10", 40, "f" * 64, code=11, msg="the pool is full", pod="shop/web"), *LIFE]
    timeline = only(lines)
    assert told(timeline.spans)[:2] == [("RunPodSandbox", ["CNI ADD eth0"]), ("RunPodSandbox", ["CNI ADD eth0"])]
    assert {span.inside[0].detail for span in timeline.spans[:2]} == {"", "error 11: the pool is full"}
    assert [span.failed for span in timeline.spans[:2]] == [True, False]


def test_a_later_sandbox_of_the_same_pod_is_a_story_of_its_own() -> None:
    again = "6b" * 32
    found = timelines([*LIFE, rpc("RunPodSandbox", "12.500", 100, **WEB, sandbox_id=again)])
    assert [each.sandbox_id for each in found] == [SANDBOX, again]


def test_an_exit_is_a_mark_at_the_instant_it_happened() -> None:
    record = {"time": "2026-01-01T00:00:11.400Z", "event": "exit", "happened": "2026-01-01T00:00:11.250Z"}
    more = {"sandbox_id": SANDBOX, "container_id": CONTAINER, "container_name": "nginx", "exit_code": 137}
    timeline = only([*LIFE, json.dumps({**record, **more})])
    (mark,) = timeline.marks
    assert (mark.label, mark.detail, round(mark.when - timeline.began, 3)) == ("exit", "nginx with 137", 0.85)


def test_what_is_no_record_is_passed_over() -> None:
    rubbish = ["", "Traceback", "{", "[1]", "{}", '{"event": "call"}', '{"time": "later", "event": "call"}']
    rubbish.append('{"time": "2026-01-01T00:00:00Z", "command": "VERSION", "total_ms": 1}')
    assert timelines(rubbish) == []
    assert told(only([*rubbish, *LIFE]).spans) == told(only(LIFE).spans)


@pytest.mark.parametrize("pod", ["web", "shop/web", "uid-1", SANDBOX, SANDBOX[:8]])
def test_a_pod_is_chosen_by(pod: str) -> None:
    assert len(chosen(timelines(LIFE), pod)) == 1


@pytest.mark.parametrize("pod", ["we", "web/shop", SANDBOX[:3], ""])
def test_a_pod_is_not_chosen_by(pod: str) -> None:
    assert chosen(timelines(LIFE), pod) == []
