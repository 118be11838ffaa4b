"""Carrying rules out: on parsed copies, in order, within their time, open or closed, or dry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from cri_shim import rules, schema
from cri_shim.call import Call
from cri_shim.capabilities import Services, Setup
from cri_shim.errors import AskError, ConfigError, RejectedError
from cri_shim.interceptors.ruled import Matched, Ruled
from cri_shim.pods import SUBJECT, Pods
from cri_shim.rules import Counts
from cri_shim.schema import RuntimeMessage

RUNTIME = "/runtime.v1.RuntimeService/"
RUN, EXEC = RUNTIME + "RunPodSandbox", RUNTIME + "ExecSync"
UNKNOWN_FIELD = b"\xfa\x3f\x03new"
BAD_UTF8 = b"\x12\x02\xff\xfe"


class Sample(Ruled):
    """Adds labels, refuses, raises or hangs, as the rule's `do` says."""

    name = "sample"
    methods = ("RunPodSandbox", "ExecSync", "PodSandboxStatus")

    @classmethod
    def parse(cls, do: Mapping[str, Any]) -> Mapping[str, Any]:
        if "wrong" in do:
            raise ValueError("wrong is wrong")
        return do

    async def change_request(self, match: Matched, request: RuntimeMessage) -> None:
        for key, value in match.action.get("label", {}).items():
            request.config.labels[key] = value
        if "append" in match.action:
            request.config.hostname += match.action["append"]
        if "refuse" in match.action:
            raise RejectedError(7, match.action["refuse"])
        if "raise" in match.action:
            raise KeyError(match.action["raise"])
        if "hang" in match.action:
            await asyncio.Event().wait()

    async def change_response(self, match: Matched, response: RuntimeMessage) -> None:
        if "handler" in match.action:
            response.status.runtime_handler = match.action["handler"]


class Told(list[dict[str, object]]):
    def __call__(self, event: str, **fields: object) -> None:
        self.append({"event": event, **fields})


def sample(*tables: dict[str, Any], pods: Pods | None = None) -> tuple[Sample, Services, Told]:
    told = Told()
    services = Services(event=told, pods=pods or Pods())
    named = [{"name": f"r{n}", "interceptor": "sample", **table} for n, table in enumerate(tables)]
    return Sample(Setup("sample", {}, rules.parse(named), services)), services, told


def frame(namespace: str = "shop", **config: Any) -> bytes:
    request = schema.message("RunPodSandboxRequest")(config={"metadata": {"name": "p", "namespace": namespace}})
    request.config.MergeFrom(schema.message("PodSandboxConfig")(**config))
    return bytes(request.SerializeToString()) + UNKNOWN_FIELD


def asked(one: Sample, sent: bytes, method: str = RUN) -> tuple[bytes, Call]:
    call = Call(method, [])
    return asyncio.run(one.on_request(call, sent)), call


def test_a_change_keeps_fields_the_schema_does_not_know() -> None:
    one, services, _ = sample({"do": {"label": {"a": "b"}}})
    changed, _ = asked(one, frame())
    assert changed.endswith(UNKNOWN_FIELD)
    assert schema.message("RunPodSandboxRequest").FromString(changed).config.labels == {"a": "b"}
    assert services.tally["sample", "r0"] == Counts(hits=1, changes=1)


def test_a_rule_that_changes_nothing_leaves_the_very_bytes() -> None:
    # Fields out of order are no canonical encoding: writing them anew would reorder them.
    sent = UNKNOWN_FIELD + frame(labels={"a": "b"})
    one, services, _ = sample({"do": {"label": {"a": "b"}}})
    assert asked(one, sent)[0] is sent
    assert services.tally["sample", "r0"] == Counts(hits=1)


def test_rules_apply_in_order_each_to_what_the_one_before_left() -> None:
    one, _, _ = sample({"do": {"append": "1"}}, {"match": {"namespaces": ["x"]}}, {"do": {"append": "2"}})
    changed, call = asked(one, frame(hostname="h"))
    assert schema.message("RunPodSandboxRequest").FromString(changed).config.hostname == "h12"
    assert call.notes["rules"] == ["r0", "r2"]


def test_a_refusal_is_the_calls_end_and_is_counted() -> None:
    one, services, _ = sample({"do": {"refuse": "ask ops"}})
    with pytest.raises(RejectedError, match="ask ops"):
        asked(one, frame())
    assert services.tally["sample", "r0"] == Counts(hits=1, refusals=1)


@pytest.mark.parametrize(
    ("do", "would"),
    [
        pytest.param({"refuse": "ask ops"}, ["refuse: ask ops"], id="refusal"),
        pytest.param(
            {"label": {"a": "b"}, "append": "x"}, ["change config.hostname", "change config.labels"], id="change"
        ),
    ],
)
def test_a_dry_run_tells_what_it_would_do_and_changes_nothing(do: dict[str, Any], would: list[str]) -> None:
    one, services, told = sample({"do": do, "dry_run": True})
    sent = frame()
    assert asked(one, sent)[0] is sent
    [line] = told
    assert (line["event"], line["rule"], line["would"], line["pod_name"]) == ("rule-dry-run", "r0", would, "p")
    assert services.tally["sample", "r0"] == Counts(dry_hits=1)


TROUBLE = [
    pytest.param({"do": {"raise": "x"}}, frame(), "failures", id="exception"),
    pytest.param({"do": {"hang": 1}, "timeout_seconds": 0.01}, frame(), "timeouts", id="timeout"),
    pytest.param({}, b"\x0a\xff", "failures", id="no-message"),
    pytest.param({}, BAD_UTF8, "failures", id="invalid-utf8"),
]


@pytest.mark.parametrize(("table", "sent", "count"), TROUBLE)
def test_a_rule_that_fails_open_passes_the_frame_as_it_was(table: dict[str, Any], sent: bytes, count: str) -> None:
    one, services, told = sample({**table, "fail": "open"})
    assert asked(one, sent)[0] is sent
    assert [(line["event"], line["rule"]) for line in told] == [("rule-failed", "r0")]
    assert getattr(services.tally["sample", "r0"], count) == 1


@pytest.mark.parametrize(("table", "sent", "count"), TROUBLE)
def test_a_rule_that_fails_closed_refuses_the_call(table: dict[str, Any], sent: bytes, count: str) -> None:
    one, services, _ = sample({**table, "fail": "closed"})
    with pytest.raises(RejectedError, match="rule r0 of sample failed on RunPodSandbox and fails closed") as caught:
        asked(one, sent)
    assert caught.value.code == 13
    assert getattr(services.tally["sample", "r0"], count) == 1


def test_a_failed_rule_leaves_the_changes_of_the_others() -> None:
    one, _, _ = sample(
        {"do": {"append": "1"}}, {"do": {"append": "x", "raise": "1"}, "fail": "open"}, {"do": {"append": "2"}}
    )
    changed, _ = asked(one, frame(hostname="h"))
    assert schema.message("RunPodSandboxRequest").FromString(changed).config.hostname == "h12"


def test_a_response_is_changed_by_the_rules_its_request_matched() -> None:
    one, _, _ = sample({"do": {"handler": "kata"}})
    response = schema.message("PodSandboxStatusResponse")(status={"id": "s"}).SerializeToString() + UNKNOWN_FIELD

    async def both() -> tuple[bytes, bytes]:
        call = Call(RUNTIME + "PodSandboxStatus", [])
        await one.on_request(call, b"")
        return await one.on_response(call, response), await one.on_response(Call(call.method, []), response)

    changed, unmatched = asyncio.run(both())
    assert schema.message("PodSandboxStatusResponse").FromString(changed).status.runtime_handler == "kata"
    assert changed.endswith(UNKNOWN_FIELD)
    assert unmatched is response


def test_only_methods_of_some_rule_pass_through() -> None:
    one, _, _ = sample({"match": {"methods": ["Exec*"]}})
    assert one.wants(EXEC)
    assert not one.wants(RUN)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        pytest.param({"do": {"wrong": 1}}, "rule r0: do: wrong is wrong", id="do"),
        pytest.param({"match": {"methods": ["PullImage"]}}, "rule r0: sample acts on RunPodSandbox, Exec", id="method"),
    ],
)
def test_rules_the_interceptor_cannot_carry_out_are_faults(table: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sample(table)
    assert fault in caught.value.faults[0]


class Runtime:
    """Answers what the shim asks itself; counts, and waits for `gate` when there is one."""

    def __init__(self, error: AskError | None = None, gate: asyncio.Event | None = None) -> None:
        self.asked: list[str] = []
        self._error = error
        self._gate = gate

    async def __call__(self, name: str, **fields: Any) -> RuntimeMessage:
        self.asked.append(name)
        if self._gate is not None:
            await self._gate.wait()
        if self._error is not None:
            raise self._error
        labels = {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "shop", "tier": "front"}
        if name == "ListContainers":
            assert fields == {"filter": {"id": "c1"}}
            container = {"id": "c1", "pod_sandbox_id": "s1", "metadata": {"name": "app"}, "image": {"image": "web:1"}}
            return schema.message("ListContainersResponse")(containers=[container])
        assert (name, fields) == ("PodSandboxStatus", {"pod_sandbox_id": "s1"})
        return schema.message("PodSandboxStatusResponse")(status={"id": "s1", "labels": labels})


EXEC_FRAME = schema.message("ExecSyncRequest")(container_id="c1", cmd=["id"]).SerializeToString()
FRONT = {"match": {"namespaces": ["shop"], "labels": {"tier": "front"}, "images": ["web:*"]}}


def test_an_id_from_before_the_start_is_looked_up_once() -> None:
    runtime = Runtime()
    one, services, _ = sample(FRONT, pods=Pods(runtime))

    async def story() -> None:
        first = [Call(EXEC, []) for _ in range(3)]
        await asyncio.gather(*(one.on_request(call, EXEC_FRAME) for call in first))
        await one.on_request(Call(EXEC, []), EXEC_FRAME)
        assert first[0].notes[SUBJECT].container_name == "app"

    asyncio.run(story())
    assert runtime.asked == ["ListContainers", "PodSandboxStatus"]
    assert services.tally["sample", "r0"].hits == 4


def test_a_rule_that_needs_no_pod_asks_nobody() -> None:
    runtime = Runtime()
    one, _, _ = sample({}, pods=Pods(runtime))
    asked(one, EXEC_FRAME, EXEC)
    assert runtime.asked == []


@pytest.mark.parametrize("error", [AskError(14, "away"), None], ids=["unavailable", "hanging"])
def test_a_runtime_that_does_not_tell_fails_the_rule_not_an_open_call(error: AskError | None) -> None:
    for fail in ("open", "closed"):
        runtime = Runtime(error, None if error else asyncio.Event())
        one, _, told = sample({**FRONT, "fail": fail, "timeout_seconds": 0.01}, pods=Pods(runtime))
        if fail == "open":
            assert asked(one, EXEC_FRAME, EXEC)[0] is EXEC_FRAME
        else:
            with pytest.raises(RejectedError, match="fails closed"):
                asked(one, EXEC_FRAME, EXEC)
        assert told[0]["event"] == "rule-failed"


def test_an_id_the_runtime_does_not_know_matches_nothing() -> None:
    class Empty(Runtime):
        async def __call__(self, name: str, **fields: Any) -> RuntimeMessage:
            return schema.message("ListContainersResponse")()

    one, services, told = sample(FRONT, pods=Pods(Empty()))
    assert asked(one, EXEC_FRAME, EXEC)[0] is EXEC_FRAME
    assert (told, services.tally["sample", "r0"].hits) == ([], 0)
