"""The systemd unit: valid, and in step with the configuration."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from cri_shim.config import Config

UNIT = Path(__file__).resolve().parents[2] / "conf" / "podwire-shim.service"


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read_string(UNIT.read_text())
    return parser


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("Unit", "Before", "kubelet.service"),
        ("Unit", "StartLimitIntervalSec", "0"),
        ("Service", "Type", "notify"),
        ("Service", "NotifyAccess", "all"),
        ("Service", "Restart", "always"),
        ("Service", "OOMScoreAdjust", "-999"),
        ("Service", "RuntimeDirectory", "podwire"),
        ("Service", "RuntimeDirectoryPreserve", "yes"),
        ("Install", "WantedBy", "multi-user.target"),
    ],
    ids=lambda text: text,
)
def test_the_unit_says(unit: configparser.ConfigParser, section: str, key: str, value: str) -> None:
    assert unit[section][key] == value


def test_the_shim_needs_neither_its_upstream_nor_kubelet(unit: configparser.ConfigParser) -> None:
    assert not {"Requires", "Wants", "BindsTo", "PartOf", "Requisite"} & set(unit["Unit"])


def test_systemd_waits_longer_than_the_drain(unit: configparser.ConfigParser) -> None:
    assert float(unit["Service"]["TimeoutStopSec"].removesuffix("s")) > Config().drain_seconds + 5


def test_a_reload_starts_a_successor_of_the_same_configuration(unit: configparser.ConfigParser) -> None:
    assert unit["Service"]["ExecReload"] == f"{unit['Service']['ExecStart']} --replace --detach"


def test_many_clients_fit_the_file_limit(unit: configparser.ConfigParser) -> None:
    assert int(unit["Service"]["LimitNOFILE"]) >= 65536


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit() -> None:
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", str(UNIT)], capture_output=True, text=True)
    ours = [line for line in run.stderr.splitlines() if "podwire-shim" in line]
    assert (run.returncode, ours) == (0, []), run.stderr
