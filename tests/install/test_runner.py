"""The runner and the machine's witness, tried on tests that pass, fail, hang and forget."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import run
from tests.install.conftest import REPOSITORY, environment
from tests.lab import witness

_MIXED = """
import pytest
def test_good(): pass
def test_bad(): assert False
@pytest.mark.skip(reason="no such kernel")
def test_skipped(): pass
@pytest.fixture
def broken(): yield; raise RuntimeError("teardown")
def test_good_with_a_bad_teardown(broken): pass
def test_bad_with_a_bad_teardown(broken): assert False
"""


def _parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, minutes: float = 1) -> None:
    (tmp_path / "test_it.py").write_text(text)
    monkeypatch.setattr(run, "PARTS", (run.Part("some", minutes, (str(tmp_path),)),))


def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine only what these tests leave: others may be at work on it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(witness.MARK, os.environ[witness.MARK])

    def left() -> witness.Snapshot:
        return witness.Snapshot({"file": frozenset(map(str, Path(tempfile.gettempdir()).glob("podwire-left-*")))})

    monkeypatch.setattr(witness, "of_machine", left)


def test_counts_are_pytests_and_stand_in_the_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _parts(monkeypatch, tmp_path, _MIXED)
    assert run.main([]) == 1
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == "1 passed, 3 failed, 1 skipped"
    assert "skipped in some: 1 x no such kernel" in said


def test_a_part_over_its_budget_is_ended_and_counts_as_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _parts(monkeypatch, tmp_path, "import time\ndef test_long(): time.sleep(600)\n", minutes=0.05)
    assert run.main([]) == 1
    said = capfd.readouterr().out
    assert "over its 0.05 min" in said
    assert said.splitlines()[-1] == "0 passed, 1 failed"


def test_a_part_may_use_what_the_parts_before_it_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass\n")
    parts = (run.Part("first", 2, (str(tmp_path),)), run.Part("second", 0.0001, (str(tmp_path),)))
    monkeypatch.setattr(run, "PARTS", parts)
    assert run.main(["second"]) == 1
    assert run.main([]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "2 passed, 0 failed"


@pytest.mark.parametrize("text", ["", "x = 1\n"], ids=["empty", "without-tests"])
def test_a_part_without_tests_counts_as_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    _parts(monkeypatch, tmp_path, text)
    assert run.main([]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "0 passed, 0 failed"


def test_a_part_that_cannot_be_collected_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _parts(monkeypatch, tmp_path, "import no_such_module\n")
    assert run.main([]) == 1
    assert not capfd.readouterr().out.splitlines()[-1].endswith("0 failed")


def test_the_budgets_of_each_lane_leave_room_below_three_quarters_of_an_hour() -> None:
    for lane in {part.lane for part in run.PARTS}:
        assert sum(part.minutes for part in run.PARTS if part.lane == lane) <= 43


def test_lanes_run_at_the_same_time_and_print_one_part_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Each waits for what the other makes.
    for own, other in (("a", "b"), ("b", "a")):
        (tmp_path / own).mkdir()
        (tmp_path / own / f"test_{own}.py").write_text(
            "import pathlib, tests.lab.waiting as waiting\n"
            f"def test_{own}():\n"
            f"    pathlib.Path({str(tmp_path)!r}, 'made-{own}').touch()\n"
            f"    waiting.wait_until(pathlib.Path({str(tmp_path)!r}, 'made-{other}').exists, 60, 'the other')\n"
        )
    parts = (run.Part("a", 2, (str(tmp_path / "a"),)), run.Part("b", 2, (str(tmp_path / "b"),), "two"))
    monkeypatch.setattr(run, "PARTS", parts)
    _alone(monkeypatch)
    assert run.main([]) == 0
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == "2 passed, 0 failed"
    assert len(re.findall(r"^=== [ab] ===$", said, re.MULTILINE)) == 2


def test_what_two_lanes_leave_on_the_machine_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    left = Path(tempfile.gettempdir(), f"podwire-left-{tmp_path.name}")
    (tmp_path / "a/test_a.py").write_text(f"import pathlib\ndef test_it(): pathlib.Path({str(left)!r}).touch()\n")
    (tmp_path / "b/test_b.py").write_text("def test_it(): pass\n")
    parts = (run.Part("a", 2, (str(tmp_path / "a"),)), run.Part("b", 2, (str(tmp_path / "b"),), "two"))
    monkeypatch.setattr(run, "PARTS", parts)
    _alone(monkeypatch)
    try:
        assert run.main([]) == 1
    finally:
        left.unlink(missing_ok=True)
    said = capfd.readouterr().out
    assert f"+ file: {left}" in said
    assert said.splitlines()[-1] == "2 passed, 1 failed"


def test_a_forgotten_process_fails_the_session_by_name(tmp_path: Path) -> None:
    (tmp_path / "test_forgets.py").write_text(
        "import subprocess\n"
        "def test_it():\n"
        "    global kept\n"
        "    kept = subprocess.Popen(['sleep', '30.25'], start_new_session=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", tmp_path / "test_forgets.py"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    forgotten = re.search(r"\+ process: (\d+) .*sleep 30\.25", done.stdout)
    assert done.returncode == 1
    assert forgotten is not None, done.stdout
    subprocess.run(["kill", "-9", forgotten[1]], check=True)
