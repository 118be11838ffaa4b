"""The shim and the CNI plugin together: the conflist, the plugin's STATUS in the runtime's, its GC."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_shim import schema
from tests.cri.conftest import Line
from tests.cri.scripted import ROOT, Context, shim_process, until

UPDATE = "/runtime.v1.RuntimeService/UpdateRuntimeConfig"
STATUS = "/runtime.v1.RuntimeService/Status"
LIST = "/runtime.v1.RuntimeService/ListPodSandbox"
BOTH = "10.244.1.0/24,fd00:10:244:1::/64"
# A field that no schema knows, number 999, length-delimited.
FUTURE = b"\xba\x3e\x06future"

Play = Callable[..., None]


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def settings(folder: Path) -> Callable[..., str]:
    """The table [network] with everything inside the test's folder, the working tree's podwire-net, and `more`."""
    program(folder / "podwire-net", f'#!/bin/sh\ncd {ROOT} || exit\nexec {sys.executable} -B -m cni_plugin.net "$@"\n')
    (folder / "net.d").mkdir()
    (folder / "bin").mkdir()

    def made(**more: Any) -> str:
        keys = {
            "renderer": f"{folder}/podwire-net",
            "pod_cidr_file": f"{folder}/lib/pod-cidr",
            "conf_dir": f"{folder}/net.d",
            "bin_dir": f"{folder}/bin",
            "ready": "off",
            "ready_seconds": 1,
            "gc_seconds": 0,
            **more,
        }
        return "[network]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())

    return made


def conflist(folder: Path) -> Path:
    return folder / "net.d/10-podwire.conflist"


def update(pod_cidr: str) -> bytes:
    request = schema.message("UpdateRuntimeConfigRequest")
    return request(runtime_config={"network_config": {"pod_cidr": pod_cidr}}).SerializeToString()


def answering(line: Line, method: str, frame: Callable[[], bytes]) -> None:
    async def behaviour(context: Context) -> None:
        await context.read()
        await context.write(frame())

    line.runtime.behaviours[method] = behaviour


def unchanged(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def ranges(path: Path) -> list[str]:
    plugin = json.loads(path.read_text())["plugins"][0]
    return [each[0]["subnet"] for each in plugin["ipam"]["ranges"]]


# --- the conflist ---------------------------------------------------------------------------------------------


def test_the_conflist_is_there_before_the_runtime_hears_of_the_pod_cidr(
    play: Play, folder: Path, settings: Callable[..., str]
) -> None:
    async def story(line: Line) -> None:
        seen: list[list[str]] = []

        def look() -> bytes:
            seen.append(ranges(conflist(folder)))
            return b""

        answering(line, UPDATE, look)
        answer = await line.client.unary(UPDATE, update(BOTH))
        assert (answer.code, answer.text) == (grpc.StatusCode.OK, "")
        assert seen == [BOTH.split(",")]
        assert (folder / "lib/pod-cidr").read_text() == BOTH + "\n"

    play(story, config=settings(conflist=str(conflist(folder))))


def test_the_same_pod_cidr_again_touches_nothing_and_another_is_logged(
    play: Play, folder: Path, settings: Callable[..., str]
) -> None:
    async def story(line: Line) -> None:
        answering(line, UPDATE, bytes)
        for _ in range(2):
            await line.client.unary(UPDATE, update(BOTH))
            known = unchanged(conflist(folder))
            await line.client.unary(UPDATE, update(BOTH))
            assert unchanged(conflist(folder)) == known
        await line.client.unary(UPDATE, update("10.244.7.0/24"))
        assert ranges(conflist(folder)) == ["10.244.7.0/24"]
        await until(lambda: len(line.shim.events("conflist")) == 2, "two changes in the log")
        told = [(each["pod_cidr"], each.get("before")) for each in line.shim.events("conflist")]
        assert told == [(BOTH, None), ("10.244.7.0/24", BOTH)]

    play(story, config=settings(conflist=str(conflist(folder))))


def test_an_empty_pod_cidr_passes_and_renders_nothing(play: Play, folder: Path, settings: Callable[..., str]) -> None:
    async def story(line: Line) -> None:
        answering(line, UPDATE, bytes)
        assert (await line.client.unary(UPDATE, update(""))).code is grpc.StatusCode.OK
        assert not conflist(folder).exists()

    play(story, config=settings(conflist=str(conflist(folder))))


@pytest.mark.parametrize(
    ("pod_cidr", "place", "reason"),
    [
        pytest.param("10.244.1.0/24,10.244.2.0/24", "net.d", "give one, or one of each family", id="one-family-twice"),
        pytest.param("10.244.1.0/99", "net.d", "10.244.1.0/99", id="no-subnet"),
        pytest.param(BOTH, "missing", "missing", id="no-folder"),
    ],
)
def test_a_conflist_that_cannot_be_made_is_kubelets_error_and_nothing_goes_on(
    play: Play, folder: Path, settings: Callable[..., str], pod_cidr: str, place: str, reason: str
) -> None:
    async def story(line: Line) -> None:
        answering(line, UPDATE, bytes)
        answer = await line.client.unary(UPDATE, update(pod_cidr))
        assert answer.code is grpc.StatusCode.FAILED_PRECONDITION
        assert reason in answer.text
        assert pod_cidr in answer.text
        assert line.runtime.calls == []
        assert not (folder / "lib").exists()

    play(story, config=settings(conflist=f"{folder}/{place}/10-podwire.conflist"))


def test_what_was_remembered_is_rendered_at_the_next_start(folder: Path, settings: Callable[..., str]) -> None:
    (folder / "lib").mkdir()
    (folder / "lib/pod-cidr").write_text(BOTH + "\n")

    async def story() -> None:
        async with shim_process(folder, config=settings(conflist=str(conflist(folder)))):
            await until(conflist(folder).exists, "the conflist, without a call")
            assert ranges(conflist(folder)) == BOTH.split(",")

    asyncio.run(story())


def test_without_the_key_the_call_passes_untouched(play: Play, folder: Path, settings: Callable[..., str]) -> None:
    async def story(line: Line) -> None:
        answering(line, UPDATE, bytes)
        assert (await line.client.unary(UPDATE, update("not even a subnet"))).code is grpc.StatusCode.OK
        assert list((folder / "net.d").iterdir()) == []

    play(story, config=settings())


# --- readiness ------------------------------------------------------------------------------------------------


def network(folder: Path, state: str = "state", plugin: str = "podwire") -> None:
    """A conflist of one plugin, replaced as a whole."""
    entry = {"type": plugin, "stateDir": state, "ipMasq": False, "ipam": {"ranges": [[{"subnet": "10.244.0.0/24"}]]}}
    document = {"cniVersion": "1.0.0", "name": "podwire", "plugins": [entry]}
    draft = folder / "net.d/.new"
    draft.write_text(json.dumps(document))
    draft.rename(conflist(folder))


def unwritable(folder: Path) -> str:
    """A state folder that even root cannot make."""
    (folder / "file").touch()
    return f"{folder}/file/state"


def real_plugin(folder: Path) -> None:
    (folder / "bin").rmdir()
    (folder / "bin").symlink_to(ROOT / "build/cni")


def status_frame(verbose: bool = False, ready: bool = True) -> bytes:
    conditions = [
        {"type": "RuntimeReady", "status": True},
        {"type": "NetworkReady", "status": ready, "reason": "" if ready else "NetworkPluginNotReady"},
    ]
    info = {"config": "{}"} if verbose else {}
    made = schema.message("StatusResponse")(status={"conditions": conditions}, info=info)
    return made.SerializeToString() + FUTURE


def condition(frame: bytes) -> Any:
    status = schema.message("StatusResponse").FromString(frame).status
    return next(each for each in status.conditions if each.type == "NetworkReady")


def failing(line: Line, count: int) -> Callable[[], bool]:
    return lambda: any(each.get("failures", 0) >= count for each in line.shim.events("network-ready"))


def test_enforced_the_status_says_what_the_plugin_says_and_says_so_no_more_when_it_has_passed(
    play: Play, folder: Path, settings: Callable[..., str]
) -> None:
    real_plugin(folder)
    network(folder, unwritable(folder))

    async def story(line: Line) -> None:
        answering(line, STATUS, status_frame)
        await until(failing(line, 1), "a first failure in the log")
        assert condition((await line.client.unary(STATUS)).frames[0]).status, "one failure is none"
        await until(failing(line, 2), "the second failure in the log")
        frame = (await line.client.unary(STATUS)).frames[0]
        said = condition(frame)
        assert (said.status, said.reason) == (False, "PodwireNotReady")
        assert f"the state folder {folder}/file/state cannot be written" in said.message
        assert FUTURE in frame, "a field that nobody knows yet"
        network(folder, str(folder / "state"))
        await until(lambda: line.shim.events("network-ready")[-1]["ready"], "the recovery in the log")
        assert (await line.client.unary(STATUS)).frames == [status_frame()]

    play(story, config=settings(ready="enforce", ready_failures=2))


def test_reported_the_condition_stays_and_a_verbose_status_has_a_note(
    play: Play, folder: Path, settings: Callable[..., str]
) -> None:
    real_plugin(folder)
    network(folder, unwritable(folder))

    async def story(line: Line) -> None:
        answering(line, STATUS, status_frame)
        await until(failing(line, 1), "the failure in the log")
        assert (await line.client.unary(STATUS)).frames == [status_frame()]
        answering(line, STATUS, lambda: status_frame(verbose=True))
        frame = (await line.client.unary(STATUS)).frames[0]
        note = json.loads(schema.message("StatusResponse").FromString(frame).info["podwire.dev/network"])
        assert f"{folder}/file/state" in note["reason"]
        assert condition(frame).status
        assert FUTURE in frame

    play(story, config=settings(ready="report", ready_failures=1))


def test_the_runtimes_own_reason_is_kept(play: Play, folder: Path, settings: Callable[..., str]) -> None:
    real_plugin(folder)
    network(folder, unwritable(folder))

    async def story(line: Line) -> None:
        answering(line, STATUS, lambda: status_frame(ready=False))
        await until(failing(line, 1), "the failure in the log")
        assert (await line.client.unary(STATUS)).frames == [status_frame(ready=False)]

    play(story, config=settings(ready="enforce", ready_failures=1))


def test_a_plugin_that_hangs_delays_no_status(play: Play, folder: Path, settings: Callable[..., str]) -> None:
    program(folder / "bin/podwire", f"#!/bin/sh\ntouch {folder}/asked\nexec sleep 600\n")
    network(folder)

    async def story(line: Line) -> None:
        answering(line, STATUS, status_frame)
        await until((folder / "asked").exists, "the plugin to be asked")
        answer = await line.client.unary(STATUS, timeout=2)
        assert (answer.code, answer.frames) == (grpc.StatusCode.OK, [status_frame()])

    play(story, config=settings(ready="enforce", ready_failures=1))


def test_another_plugins_network_is_not_asked_about(play: Play, folder: Path, settings: Callable[..., str]) -> None:
    program(folder / "bin/podwire", f"#!/bin/sh\ntouch {folder}/asked\nexit 1\n")
    network(folder, plugin="bridge")

    async def story(line: Line) -> None:
        answering(line, STATUS, status_frame)
        answering(line, LIST, bytes)
        await until(lambda: line.shim.events("upstream"), "the upstream")
        assert (await line.client.unary(STATUS)).frames == [status_frame()]
        assert line.runtime.calls.count(LIST) == 0
        assert not (folder / "asked").exists()

    play(story, config=settings(ready="enforce", ready_failures=1, gc_seconds=1))


# --- garbage --------------------------------------------------------------------------------------------------


def recording_plugin(folder: Path) -> Callable[[], list[dict[str, Any]]]:
    """A plugin that keeps what it was called with; returns how to read it."""
    program(
        folder / "bin/podwire",
        f'#!/bin/sh\ntest "$CNI_COMMAND" = GC || exit 1\ntr -d "\\n" >>{folder}/gc\necho >>{folder}/gc\n',
    )
    network(folder)

    def calls() -> list[dict[str, Any]]:
        text = (folder / "gc").read_text() if (folder / "gc").exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    return calls


def test_the_live_sandboxes_and_when_their_list_was_begun_go_to_the_plugins_gc(
    play: Play, folder: Path, settings: Callable[..., str]
) -> None:
    calls = recording_plugin(folder)

    async def story(line: Line) -> None:
        listed: list[float] = []

        def sandboxes() -> bytes:
            listed.append(time.clock_gettime(time.CLOCK_BOOTTIME))
            response = schema.message("ListPodSandboxResponse")
            states = [{"id": "a" * 64, "state": 0}, {"id": "b" * 64, "state": 1}]
            return response(items=states).SerializeToString() + FUTURE

        answering(line, LIST, sandboxes)
        await until(lambda: len(calls()) >= 2, "two collections")
        first, second = (each["podwire.dev/gc"] for each in calls()[:2])
        assert first["containers"] == ["a" * 64, "b" * 64]
        assert first["asOf"] < listed[0] < second["asOf"] < listed[1]
        assert (calls()[0]["name"], calls()[0]["cniVersion"]) == ("podwire", "1.1.0")
        await until(lambda: line.shim.events("gc"), "the log line")
        assert line.shim.events("gc")[0]["sandboxes"] == 2

    play(story, config=settings(gc_seconds=1))


@pytest.mark.parametrize("trouble", ["error", "unreadable", "nameless"])
def test_without_a_whole_list_nothing_is_collected(
    play: Play, folder: Path, settings: Callable[..., str], trouble: str
) -> None:
    calls = recording_plugin(folder)

    async def story(line: Line) -> None:
        async def behaviour(context: Context) -> None:
            if trouble == "error":
                await context.abort(grpc.StatusCode.UNKNOWN, "the store is locked")
            nameless = schema.message("ListPodSandboxResponse")(items=[{"id": "a"}, {}]).SerializeToString()
            await context.write(nameless if trouble == "nameless" else b"\xff\xff\xff")

        line.runtime.behaviours[LIST] = behaviour
        await until(lambda: line.runtime.calls.count(LIST) >= 2, "two lists")
        await until(lambda: line.shim.events("gc-skipped"), "the reason")
        assert calls() == []
        told = [each["reason"] for each in line.shim.events("gc-skipped")]
        assert len(set(told)) == len(told), "each reason once"

    play(story, config=settings(gc_seconds=1))
