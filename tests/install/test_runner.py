"""The runner and the machine's witness, tried on tests that pass, fail, hang and forget."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import run
from tests.install.conftest import REPOSITORY, environment

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


def test_the_budgets_together_leave_room_below_three_quarters_of_an_hour() -> None:
    assert sum(part.minutes for part in run.PARTS) <= 43


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
