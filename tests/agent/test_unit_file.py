"""The systemd unit and the access to the cluster."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
UNIT = CONF / "podwire-agent.service"


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read_string(UNIT.read_text())
    return parser


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("Unit", "StartLimitIntervalSec", "0"),
        ("Service", "Type", "notify"),
        ("Service", "ExecStart", "/usr/bin/env podwire-agent --config /etc/podwire/agent.toml"),
        ("Service", "Restart", "always"),
        ("Service", "RuntimeDirectoryPreserve", "yes"),
        ("Service", "StateDirectory", "podwire"),
        ("Install", "WantedBy", "multi-user.target"),
    ],
    ids=lambda text: text,
)
def test_the_unit_says(unit: configparser.ConfigParser, section: str, key: str, value: str) -> None:
    assert unit[section][key] == value


def test_nothing_waits_for_it_and_it_waits_for_nothing(unit: configparser.ConfigParser) -> None:
    assert not {"Requires", "Wants", "BindsTo", "PartOf", "Requisite", "Before"} & set(unit["Unit"])


def test_it_may_write_the_sysctls_that_it_keeps(unit: configparser.ConfigParser) -> None:
    assert "ProtectKernelTunables" not in unit["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit() -> None:
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", str(UNIT)], capture_output=True, text=True)
    ours = [line for line in run.stderr.splitlines() if "podwire-agent" in line]
    assert (run.returncode, ours) == (0, []), run.stderr


def test_the_agent_may_list_and_watch_nodes_and_nothing_else() -> None:
    documents = list(yaml.safe_load_all((CONF / "agent-rbac.yaml").read_text()))
    kinds = {each["kind"]: each for each in documents}
    assert [each["kind"] for each in documents] == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Secret"]
    assert kinds["ClusterRole"]["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]
    assert {each["metadata"]["name"] for each in documents} == {"podwire-agent"}
    assert kinds["Secret"]["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "podwire-agent"}
    assert kinds["Secret"]["type"] == "kubernetes.io/service-account-token"
