"""Rules, audit and trace context through a whole line: client, shim as a process, runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_shim import schema
from tests.cri.conftest import Line
from tests.cri.scripted import PULL, VERSION, Context, echo, until
from tests.cri.test_observe_log import answering
from tests.cri.test_third_party import install

Play = Callable[..., None]
RUNTIME = "/runtime.v1.RuntimeService/"
EXEC = RUNTIME + "ExecSync"
BAD_UTF8 = b"\x0a\x02\xff\xfe"
GUARD = """
from cri_shim.errors import RejectedError
from cri_shim.interceptors.ruled import Ruled


class Guard(Ruled):
    name = "guard"
    methods = ("ExecSync",)

    async def change_request(self, match, request):
        raise RejectedError(7, f"no exec in {match.subject.pod_namespace}/{match.subject.pod_name}")
"""
RULE = """
interceptors = ["audit", "guard"]
[audit]
file = "{folder}/audit.jsonl"
[[rule]]
name = "no-exec"
interceptor = "guard"
match = {{ namespaces = ["shop"], labels = {{ tier = "front" }} }}
fail = "{fail}"
timeout_seconds = 0.5
dry_run = {dry}
"""
EXECUTE = schema.message("ExecSyncRequest")(container_id="c1", cmd=["id"]).SerializeToString()


def message(name: str, **fields: Any) -> bytes:
    return bytes(schema.message(name)(**fields).SerializeToString())


LABELS = {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u"}
CONTAINER = {"id": "c1", "pod_sandbox_id": "s1", "metadata": {"name": "app"}, "image": {"image": "web:1"}}


def knows_the_container(line: Line) -> None:
    """The runtime has a pod from before the shim's start."""
    line.runtime.behaviours[EXEC] = answering(message("ExecSyncResponse", exit_code=4))
    line.runtime.behaviours[RUNTIME + "ListContainers"] = answering(
        message("ListContainersResponse", containers=[CONTAINER])
    )
    line.runtime.behaviours[RUNTIME + "PodSandboxStatus"] = answering(
        message("PodSandboxStatusResponse", status={"id": "s1", "labels": LABELS | {"tier": "front"}})
    )


@pytest.fixture
def guarded(play: Play, folder: Path) -> Callable[..., None]:
    """Plays a story behind a rule that forbids ExecSync in the front of the shop."""

    def run(story: Any, fail: str = "closed", dry: str = "false") -> None:
        env = install(folder / "site", "guard", "guard", GUARD, "[podwire.interceptors]\nguard = guard:Guard\n")
        play(story, config=RULE.format(folder=folder, fail=fail, dry=dry), env=env)

    return run


def audited(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def test_after_a_restart_a_rule_finds_out_whose_a_container_is(guarded: Callable[..., None]) -> None:
    async def story(line: Line) -> None:
        knows_the_container(line)
        for _ in range(2):
            answered = await line.client.unary(EXEC, EXECUTE)
            assert answered.code is grpc.StatusCode.PERMISSION_DENIED
            assert answered.text == "no exec in shop/web"
        assert line.runtime.calls == [RUNTIME + "ListContainers", RUNTIME + "PodSandboxStatus"]
        await until(lambda: len(audited(line.folder)) == 2, "the audit")
        written = audited(line.folder)[0]
        assert (written["code"], written["ended_by"], written["rules"]) == ("PERMISSION_DENIED", "shim", ["no-exec"])
        assert (written["pod_name"], written["container_name"]) == ("web", "app")

    guarded(story)


def test_a_dry_run_is_logged_and_the_call_passes(guarded: Callable[..., None]) -> None:
    async def story(line: Line) -> None:
        knows_the_container(line)
        assert (await line.client.unary(EXEC, EXECUTE)).code is grpc.StatusCode.OK
        await until(lambda: line.shim.events("rule-dry-run"), "the line")
        assert line.shim.events("rule-dry-run")[0]["would"] == ["refuse: no exec in shop/web"]
        await until(lambda: audited(line.folder), "the audit")
        assert audited(line.folder)[0]["exit_code"] == 4

    guarded(story, dry="true")


@pytest.mark.parametrize("fail", ["open", "closed"])
@pytest.mark.parametrize("frame", [EXECUTE, BAD_UTF8], ids=["runtime-hangs", "invalid-utf8"])
def test_what_cannot_be_found_out_passes_or_is_refused_as_the_rule_says(
    guarded: Callable[..., None], fail: str, frame: bytes
) -> None:
    async def story(line: Line) -> None:
        async def hang(context: Context) -> None:
            await context.read()
            await until(lambda: False, "the end of the test")

        line.runtime.behaviours[EXEC] = echo
        line.runtime.behaviours[RUNTIME + "ListContainers"] = hang
        answered = await line.client.unary(EXEC, frame)
        if fail == "open":
            assert (answered.code, answered.frames) == (grpc.StatusCode.OK, [frame])
        else:
            assert answered.code is grpc.StatusCode.INTERNAL
            assert "rule no-exec of guard failed on ExecSync and fails closed" in answered.text
            assert EXEC not in line.runtime.calls

    guarded(story, fail=fail)


def test_an_audit_that_cannot_write_lets_calls_pass(play: Play) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[PULL] = echo
        for _ in range(5):
            assert (await line.client.unary(PULL, b"")).code is grpc.StatusCode.OK

    play(story, config='interceptors = ["audit"]\n[audit]\nfile = "/dev/full"\n')


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_trace_context_passes_on_and_the_line_names_the_trace(play: Play) -> None:
    sent = (
        ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
        ("tracestate", "other=2"),
        ("baggage", "user=ann,tier=front;ttl=3"),
    )
    received: list[tuple[str, str | bytes]] = []

    async def story(line: Line) -> None:
        async def note(context: Context) -> None:
            received.extend(context.invocation_metadata() or ())
            await echo(context)

        line.runtime.behaviours[VERSION] = note
        await line.client.unary(VERSION, metadata=sent)
        assert [pair for pair in received if pair[0] in ("traceparent", "tracestate", "baggage")] == list(sent)
        assert (await line.shim.logged(VERSION))["trace_id"] == TRACE

    play(story)


@pytest.mark.parametrize(
    "parent",
    [
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        "nonsense",
        f"00-{TRACE.upper()}-00f0-01",
    ],
    ids=["version-ff", "zeros", "nonsense", "upper-case"],
)
def test_an_invalid_trace_parent_passes_on_and_names_no_trace(play: Play, parent: str) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        await line.client.unary(VERSION, metadata=(("traceparent", parent),))
        assert "trace_id" not in await line.shim.logged(VERSION)

    play(story)
