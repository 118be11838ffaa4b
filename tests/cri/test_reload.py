"""The configuration changes while calls go on: taken as a whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.cri.conftest import Line
from tests.cri.scripted import PULL, VERSION, Context, echo, until

Play = Callable[..., None]
RUN = "/runtime.v1.RuntimeService/RunPodSandbox"
QUIET = '[observe]\nquiet_methods = ["Version"]\n'


def renamed_over(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    os.rename(fresh, file)


def written_in_place(file: Path, text: str) -> None:
    file.write_text(text)


def linked_elsewhere(file: Path, text: str) -> None:
    """As a ConfigMap volume changes: a link is replaced."""
    target = file.with_suffix(".target")
    target.write_text(text)
    link = file.with_suffix(".link")
    link.symlink_to(target)
    os.rename(link, file)


@pytest.mark.parametrize("change", [renamed_over, written_in_place, linked_elsewhere], ids=lambda one: one.__name__)
def test_a_changed_file_is_taken(play: Play, change: Callable[[Path, str], None]) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        await line.client.unary(VERSION)
        await line.shim.logged(VERSION)
        change(line.folder / "shim.toml", QUIET)
        await until(lambda: line.shim.events("reloaded"), "the reload")
        await line.client.unary(VERSION)
        await line.client.unary(RUN)
        await line.shim.logged(RUN)
        assert len([one for one in line.shim.events("call") if one["method"] == VERSION]) == 1

    play(story)


def test_sighup_reads_the_file_again_though_nothing_tells_it_changed(play: Play) -> None:
    async def story(line: Line) -> None:
        line.shim.process.send_signal(signal.SIGHUP)
        await until(lambda: line.shim.events("reloaded"), "the reload")
        line.runtime.behaviours[VERSION] = echo
        assert (await line.client.unary(VERSION)).code is grpc.StatusCode.OK

    play(story)


def test_an_invalid_file_keeps_what_was_and_every_fault_is_logged(play: Play) -> None:
    broken = 'drain_secnds = 1\ninterceptors = ["nobody"]\n[[rule]]\nname = "r"\ninterceptor = "x"\nfail = "no"\n'

    async def story(line: Line) -> None:
        line.runtime.behaviours[VERSION] = echo
        for text, faults in ((broken, 3), ("not toml", 1)):
            before = len(line.shim.events("reload-failed"))
            renamed_over(line.folder / "shim.toml", text)
            await until(lambda: len(line.shim.events("reload-failed")) >= before + faults, "the faults")  # noqa: B023
            await line.client.unary(VERSION)
        said = " ".join(one["fault"] for one in line.shim.events("reload-failed"))
        for word in (
            "did you mean 'drain_seconds'",
            "no package provides 'nobody'",
            "r: fail: must be",
            "not valid TOML",
        ):
            assert word in said
        await line.client.unary(RUN)
        await line.shim.logged(RUN)
        assert line.shim.events("call")[0]["method"] == RUN, "Version is still quiet"
        assert line.shim.events("reloaded") == []

    play(story, config=QUIET)


def test_a_file_that_is_gone_keeps_what_was(play: Play) -> None:
    async def story(line: Line) -> None:
        (line.folder / "shim.toml").unlink()
        await until(lambda: line.shim.events("reload-failed"), "the fault")
        renamed_over(line.folder / "shim.toml", "")
        await until(lambda: line.shim.events("reloaded"), "the reload")

    play(story)


def test_keys_that_need_a_restart_are_named(play: Play) -> None:
    async def story(line: Line) -> None:
        renamed_over(line.folder / "shim.toml", "drain_seconds = 3\n[reconnect]\nmax_seconds = 7\n")
        await until(lambda: line.shim.events("reloaded"), "the reload")
        assert line.shim.events("reloaded")[0]["needs_restart"] == ["reconnect.max_seconds"]

    play(story)


def test_calls_in_flight_end_with_the_interceptors_they_began_with(play: Play) -> None:
    async def story(line: Line) -> None:
        arrived, go = asyncio.Event(), asyncio.Event()

        async def wait(context: Context) -> None:
            arrived.set()
            await go.wait()
            await echo(context)

        async def audited_in(file: Path, count: int) -> None:
            text = f'interceptors = ["audit"]\n[audit]\nfile = "{file}"\n'
            renamed_over(line.folder / "shim.toml", text)
            await until(lambda: len(line.shim.events("reloaded")) == count, "the reload")

        line.runtime.behaviours[PULL] = wait
        old, new = line.folder / "old.jsonl", line.folder / "new.jsonl"
        await audited_in(old, 1)
        call = asyncio.create_task(line.client.unary(PULL))
        await arrived.wait()
        await audited_in(new, 2)
        go.set()
        assert (await call).code is grpc.StatusCode.OK
        await until(lambda: "PullImage" in old.read_text(), "the line of the call that began before")
        assert new.read_text() == ""
        await line.client.unary(PULL)
        await until(lambda: "PullImage" in new.read_text(), "the line of the call that began after")
        assert old.read_text().count("\n") == 1

    play(story)


def test_what_cannot_be_opened_keeps_what_was(play: Play) -> None:
    async def story(line: Line) -> None:
        renamed_over(line.folder / "shim.toml", f'interceptors = ["audit"]\n[audit]\nfile = "{line.folder}/no/where"\n')
        await until(lambda: line.shim.events("reload-failed"), "the fault")
        assert "no/where: No such file" in line.shim.events("reload-failed")[0]["fault"]

    play(story)
