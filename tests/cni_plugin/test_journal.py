"""The line of a call: its fields, and that writing it never fails a call."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.journal import Journal


def journal(target: object) -> Journal:
    made = Journal()
    made.target = str(target)
    made.fields = {"command": "ADD", "network": "pods"}
    return made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_tells_what_was_asked_what_came_of_it_and_how_long_it_took(tmp_path: Path) -> None:
    one = journal(tmp_path / "log")
    one.mark("config")
    one.note("made the table")
    one.mark("answer")
    one.write(7, "name is wrong")
    one = journal(tmp_path / "log")
    one.write(0, "")
    failed, good = lines(tmp_path / "log")
    assert list(failed) == ["time", "command", "network", "code", "total_ms", "phases", "msg", "notes"]
    assert (failed["command"], failed["code"], failed["msg"]) == ("ADD", 7, "name is wrong")
    assert failed["notes"] == ["made the table"]
    assert list(failed["phases"]) == ["start", "config", "answer"]
    assert failed["total_ms"] >= sum(failed["phases"].values()) - 0.01
    assert list(good) == ["time", "command", "network", "code", "total_ms", "phases"]
    assert good["code"] == 0


def test_the_file_is_for_its_owner_alone_and_grows(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = os.umask(0)
    try:
        for _ in range(3):
            journal(log).write(0, "")
    finally:
        os.umask(found)
    assert log.stat().st_mode & 0o777 == 0o600
    assert len(lines(log)) == 3


def test_line_feeds_in_a_message_do_not_make_lines(tmp_path: Path) -> None:
    journal(tmp_path / "log").write(1, "a\nb\udcff")
    assert [line["msg"] for line in lines(tmp_path / "log")] == ["a\nb\udcff"]


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "log").symlink_to("target")
    (tmp_path / "dangling").symlink_to("made")
    journal(tmp_path / "log").write(0, "")
    journal(tmp_path / "dangling").write(0, "")
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "made").exists()


def test_a_fifo_that_nobody_reads_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    journal(tmp_path / "log").write(0, "")


def test_a_full_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(reader, b"x" * (1 << 20))
        journal(tmp_path / "log").write(0, "")
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "target",
    ["/dev/full", "/", "/nonexistent/log", "/dev/null/log", "/proc/self/status", "/a\0b", "/\ud800", "/" + "x" * 300],
    ids=["full", "folder", "no folder", "below a file", "not writable", "NUL", "surrogate", "long name"],
)
def test_a_target_that_cannot_be_written_fails_nothing(target: str) -> None:
    journal(target).write(0, "")


def test_no_target_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal("none").write(0, "")
    assert os.listdir(tmp_path) == []
