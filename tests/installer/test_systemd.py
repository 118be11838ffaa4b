"""systemctl's answers become values and errors; with the real one see tests/nodes."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from cni_plugin.install.systemd import Systemd, SystemdError, run
from tests.installer.systemctl import Systemctl

SHIM = "podwire-shim.service"


@pytest.mark.parametrize(
    ("state", "active"), [("active", True), ("reloading", True), ("activating", False), ("failed", False)]
)
def test_a_unit_is_active_while_it_serves(state: str, active: bool) -> None:
    assert Systemd(Systemctl(podwire_shim=state)).active(SHIM) is active


def test_units_are_started_together() -> None:
    systemctl = Systemctl()
    Systemd(systemctl).enable_now(SHIM, "podwire-watchdog.timer")
    assert systemctl.calls == [("enable", "--now", SHIM, "podwire-watchdog.timer")]


def test_stopping_a_unit_that_was_never_there_is_no_fault() -> None:
    systemctl = Systemctl(podwire_shim="active")
    Systemd(systemctl).disable_now(SHIM, "podwire-agent.service")
    assert systemctl.calls == [("disable", "--now", SHIM), ("reset-failed", SHIM)]


def test_a_unit_that_fails_shows_its_last_words_and_the_command_for_more() -> None:
    systemctl = Systemctl(podwire_shim="failed")
    systemctl.fails["restart"] = "Job for podwire-shim.service failed\nbecause it exited\n"
    with pytest.raises(SystemdError) as caught:
        Systemd(systemctl).restart(SHIM)
    assert str(caught.value).splitlines() == [
        "systemctl restart podwire-shim.service: Job for podwire-shim.service failed because it exited",
        "  last lines of podwire-shim.service:",
        "    reading /etc/podwire/shim.toml",
        "    no such key: 'liten'",
    ]
    assert caught.value.details == "journalctl -u podwire-shim.service -n 50"


def test_of_several_units_only_those_that_do_not_run_are_shown() -> None:
    systemctl = Systemctl(podwire_shim="failed", podwire_agent="active")
    systemctl.fails["enable"] = "no"
    with pytest.raises(SystemdError) as caught:
        Systemd(systemctl).enable_now("podwire-agent.service", SHIM)
    assert "last lines of podwire-shim.service" in str(caught.value)
    assert "last lines of podwire-agent.service" not in str(caught.value)


def test_a_systemctl_that_does_not_return_is_an_error_with_the_time_waited() -> None:
    systemctl = Systemctl(podwire_shim="activating")
    systemctl.hangs.add("restart")
    with pytest.raises(SystemdError, match=r"systemctl restart podwire-shim.service: not done after 3 s"):
        Systemd(systemctl).restart(SHIM, seconds=3)


@pytest.mark.parametrize(
    ("state", "restarts", "text"),
    [
        ("failed", ["0", "0"], "it is failed"),
        ("activating", ["0", "1"], r"it is activating \(systemd started it 1 times again\)"),
        ("active", ["0", "0", "2"], r"it is active \(systemd started it 2 times again\)"),
    ],
    ids=["failed at once", "between two starts", "started again meanwhile"],
)
def test_a_unit_that_does_not_stay_up_is_an_error(state: str, restarts: list[str], text: str) -> None:
    systemctl = Systemctl(kubelet=state)
    systemctl.restarts = restarts
    with pytest.raises(SystemdError, match=f"kubelet.service did not stay up: {text}"):
        Systemd(systemctl).stays("kubelet.service", 5, every=0)


def test_a_unit_that_stays_up_is_fine() -> None:
    Systemd(Systemctl(kubelet="active")).stays("kubelet.service", 0)


def test_a_machine_without_systemd_is_told_apart(tmp_path: Path) -> None:
    assert not Systemd(booted=tmp_path / "run/systemd/system").available()
    assert Systemd(booted=tmp_path).available()


def test_a_missing_systemctl_is_an_error_and_no_crash() -> None:
    def absent(command: Sequence[str], seconds: float) -> "subprocess.CompletedProcess[str]":
        return run(("/nonexistent/systemctl", *command[1:]), seconds)

    systemd = Systemd(absent)
    assert systemd.state(SHIM) == "unknown"
    with pytest.raises(SystemdError, match=r"systemctl restart podwire-shim\.service: .*No such file"):
        systemd.restart(SHIM)
