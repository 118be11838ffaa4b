"""podwire-cri, as a command: timeline on the terminal and as a page, top, and what it says when it cannot."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cri_shim.cli import source, top
from cri_shim.timeline import records
from tests.cri_shim.test_timeline import LIFE, SANDBOX, WEB, plugin, rpc

ROOT = Path(__file__).resolve().parents[2]
EVIL = {"pod_namespace": "<script>", "pod_name": '"&', "pod_uid": "uid-2"}


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC"}
    argv = [sys.executable, "-m", "cri_shim.cli", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def logs(tmp_path: Path) -> list[str]:
    """The options that name two files: the shim's log of two pods, and the plugin's."""
    evil = rpc("RunPodSandbox", "12.500", 100, **EVIL, sandbox_id="e1" * 32, code="UNKNOWN")
    (tmp_path / "shim.log").write_text("\n".join([*LIFE[:6], evil]) + "\n")
    (tmp_path / "plugin.log").write_text("\n".join(LIFE[6:]) + "\n")
    return ["--log", f"{tmp_path}/shim.log", "--log", f"{tmp_path}/plugin.log"]


def test_a_pods_waterfall_has_the_plugin_inside_the_rpc(logs: list[str]) -> None:
    done = command("timeline", "shop/web", *logs)
    assert done.returncode == 0, done.stderr
    rows = [re.sub(r" +", " ", line.strip()) for line in done.stdout.splitlines()]
    assert f"shop/web {SANDBOX[:13]}" in rows
    told = [" ".join(re.sub(r"#+|\|", "", row).split()[:5]) for row in rows]
    assert told[3:7] == ["0 100.0 RunPodSandbox", "60 40.0 CNI ADD eth0", "60 10.0 start", "70 30.0 wiring"]
    assert rows[-1] == "1 pods, 4 calls; in the shim 0.8 ms, median 0.20 ms per call"


def test_a_pod_that_is_not_in_the_log_is_said_to_be_so(logs: list[str]) -> None:
    done = command("timeline", "nobody", *logs)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "podwire-cri: no calls about nobody in the log\n"


def test_a_log_that_cannot_be_read_is_named() -> None:
    done = command("timeline", "--log", "/no/where")
    assert (done.returncode, done.stderr) == (1, "podwire-cri: /no/where: No such file or directory\n")


def test_the_page_names_no_other_resource(logs: list[str], tmp_path: Path) -> None:
    assert command("timeline", *logs, "--html", tmp_path / "page.html").returncode == 0
    text = (tmp_path / "page.html").read_text()
    assert not re.search(r"\b(?:src|href)\s*=|url\(|@import|https?:", text)
    assert "default-src 'none'" in text
    assert "<script>/" not in text, "a pod's name is text"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_the_page(logs: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert command("timeline", *logs, "--html", page).returncode == 0
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    flags += ["--no-first-run", "--disable-extensions", "--disable-dev-shm-usage", "--disable-component-update"]
    profile = [f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{page}"]
    done = subprocess.run(["chromium", *flags, *profile], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # The page's own script has counted what was laid out: 5 RPCs, 3 plugin calls of 2 phases.
    assert '<span id="shown">2 pods, 14 bars</span>' in done.stdout
    assert "&lt;script&gt;/" in done.stdout, "a pod's name is text"


def test_top_into_a_pipe_is_one_table(tmp_path: Path) -> None:
    lines = [rpc("ListContainers", f"{10 + second:02d}.000", second + 1) for second in range(10)]
    lines += [rpc("ExecSync", "18.000", 30, code="UNKNOWN"), rpc("Version", "09.000", 1), plugin("ADD", "19", 4)]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    done = command("top", "--window", "10", "--log", tmp_path / "log")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[2:] == [
        ["ListContainers", "1.00", "5.0", "10.0", "10.0", "0.20"],
        ["ExecSync", "0.10", "30.0", "30.0", "30.0", "0.20", "UNKNOWN", "1"],
    ]


def test_no_call_is_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    done = command("top", "--log", tmp_path / "log")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.99, 4.0), (0.0, 1.0)])
def test_quantiles_are_of_the_nearest_rank(share: float, value: float) -> None:
    assert top.quantile([1.0, 2.0, 3.0, 4.0], share) == value


def test_a_tail_gives_whole_lines_and_follows_the_name_to_a_new_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntw")
    tail = source.Tail(str(log))
    assert tail.new() == ["one"]
    with log.open("a") as stream:
        stream.write("o\n")
    assert tail.new() == ["two"]
    log.rename(tmp_path / "log.1")
    assert tail.new() == []
    log.write_text("three\n")
    assert tail.new() == ["three"]


def test_the_rows_of_a_window_are_the_busiest_first() -> None:
    lines = [rpc("B", "10.000", 1), rpc("A", "10.000", 1), rpc("A", "10.000", 3, **WEB)]
    made = top.rows(records(lines), 2)
    assert [(row.method, row.per_second, row.most) for row in made] == [("A", 1.0, 3.0), ("B", 0.5, 1.0)]


def test_a_reader_that_goes_away_is_no_error(logs: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-B", "-m", "cri_shim.cli", "timeline", *logs]
    done = subprocess.run(argv, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["top", "--window", "0"], ["top", "--every", "-1"]])
def test_a_window_of_nothing_is_refused(arguments: list[str]) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (1, "podwire-cri: --window and --every must be more than 0\n")


def test_on_a_terminal_top_refreshes_until_it_is_interrupted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-B", "-m", "cri_shim.cli", "top", "--every", "0.05", "--log", str(log)]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    try:
        _read_until(ours, b"method")
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log.write_text(rpc("Version", "10.000", 1).replace("2026-01-01T00:00:10.000Z", stamp) + "\n")
        _read_until(ours, b"Version")
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20)[1] == b""
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def _read_until(terminal: int, word: bytes) -> None:
    seen = b""
    while word not in seen:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, f"no {word!r} in {seen!r}"
        seen += os.read(terminal, 1 << 16)
