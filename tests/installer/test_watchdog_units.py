"""The watchdog's units: valid, and in step with its code. In a real systemd they run in tests/nodes."""

import configparser
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from cni_plugin.install import systemd, watchdog, watchdog_revert
from cni_plugin.install.places import WATCHDOG_TIMER, WATCHDOG_UNIT

CONF = Path(__file__).resolve().parents[2] / "conf"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read_string((CONF / name).read_text())
    return parser


def test_it_runs_the_look_and_nothing_around_it() -> None:
    words = unit(WATCHDOG_UNIT)["Service"]["ExecStart"].split()
    assert words[:4] == ["/opt/podwire/current/bin/python3", "-I", "-B", "-m"]
    assert importlib.util.find_spec(words[4]) is not None
    assert float(words[5]) == watchdog.LIMIT_SECONDS


def test_a_look_has_time_for_its_waits() -> None:
    seconds = float(unit(WATCHDOG_UNIT)["Service"]["TimeoutStartSec"].removesuffix("s"))
    assert (
        seconds
        > 2 * watchdog.ANSWER_SECONDS + 2 * systemd.ASK_SECONDS + systemd.SECONDS + watchdog_revert.STAYS_SECONDS
    )


def test_the_folder_with_the_plugins_state_does_not_go_with_the_unit() -> None:
    assert "RuntimeDirectory" not in unit(WATCHDOG_UNIT)["Service"]


def test_it_looks_again_and_again_also_after_a_look_that_failed() -> None:
    timer = unit(WATCHDOG_TIMER)["Timer"]
    assert (timer["Unit"], timer["OnActiveSec"], timer["OnUnitInactiveSec"]) == (WATCHDOG_UNIT, "15s", "15s")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", [WATCHDOG_UNIT, WATCHDOG_TIMER])
def test_systemd_accepts_the_unit(name: str) -> None:
    files = [str(CONF / name), str(CONF / WATCHDOG_UNIT)]
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True)
    # The interpreter of an installed node is not here.
    ours = [line for line in run.stderr.splitlines() if "podwire-" in line and "is not executable" not in line]
    assert ours == [], run.stderr
