"""The log: one JSON object per line, never in the way, never growing without bound."""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cri_shim import log as log_module
from cri_shim.log import Libraries, Log

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_time_and_event_come_first_and_empty_fields_are_left_out(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), now=lambda: MOMENT)
    log.event("call", method="/a/b", pod_name="", code=None, count=0)
    log.close()
    assert (tmp_path / "log").read_text() == (
        '{"time":"2026-01-02T03:04:05.678Z","event":"call","method":"/a/b","count":0}\n'
    )
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) & 0o037 == 0


def test_hostile_text_stays_on_one_line(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"))
    log.event("x", text='a\n{"b":1}\r\udc80\u2028')
    log.close()
    raw = (tmp_path / "log").read_bytes()
    assert raw.count(b"\n") == 1
    assert json.loads(raw)["event"] == "x"


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BUFFER_BYTES", 1000)
    monkeypatch.setattr(log_module, "GATHER_SECONDS", 60)
    log = Log(str(tmp_path / "log"))
    for n in range(100):
        log.event("x", n=n, padding="." * 50)
    log.close()
    lines = written(tmp_path / "log")
    assert lines[-1]["event"] == "log-dropped"
    assert len(lines) - 1 + lines[-1]["lines"] == 100
    assert [line["n"] for line in lines[:-1]] == list(range(len(lines) - 1))


def test_what_libraries_say_becomes_a_line(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"))
    logger = logging.Logger("grpc.some")
    logger.addHandler(Libraries(log))
    try:
        raise ValueError("deep")
    except ValueError:
        logger.exception("it broke")
    logger.info("not worth a line")
    log.close()
    (line,) = written(tmp_path / "log")
    assert (line["event"], line["library"], line["level"]) == ("library", "grpc.some", "ERROR")
    assert line["message"].startswith("it broke\nTraceback")
    assert line["message"].endswith("ValueError: deep")


def test_a_reader_that_hangs_delays_nobody() -> None:
    """A pipe nobody reads: the writer thread blocks on it, event() and close() must not."""
    reading, writing = os.pipe()
    try:
        log = Log(f"/proc/self/fd/{writing}")
        for n in range(20_000):
            log.event("x", n=n, padding="." * 200)
        began = time.monotonic()
        log.close()
        assert time.monotonic() - began < 10
        assert log._writer.is_alive(), "the pipe took everything, so nothing was shown"
        assert log._size <= log_module.BUFFER_BYTES
    finally:
        # The thread is let go by reading; after its end nothing more comes.
        while log._writer.is_alive():
            if select.select([reading], [], [], 0.05)[0]:
                os.read(reading, 1 << 20)
        for fd in (reading, writing, log._fd):
            os.close(fd)
