"""The table of all nodes, from what podwire-node says of each."""

import io
import json
from typing import Any

import pytest

from cni_plugin.install import cluster_table

WELL: dict[str, Any] = {
    "command": "status",
    "installed": "0.1.0-0123456789ab",
    "current": "0.1.0-0123456789ab",
    "transaction": None,
    "removing": False,
    "units": {"podwire-agent.service": "active"},
    "agent": {"ready": True, "says": "ready"},
    "kubelet": {"endpoint": "unix:///run/podwire/cri.sock", "shim": True},
    "claims": {"attachments": 2, "hostPorts": 1, "cooling": 0, "pools": [{"size": 254, "used": 2, "free": 252}]},
    "runtime": {"ready": True},
}
ABSENT: dict[str, Any] = {"command": "status", "installed": None, "transaction": None, "units": {}}


def table(*nodes: tuple[str, Any]) -> tuple[int, str]:
    """The exit code, and the lines without what fills columns."""
    lines = "".join(f"{name}\t{json.dumps(status) if status is not None else ''}\n" for name, status in nodes)
    return cluster_table.show(io.StringIO(lines)), lines


def test_a_well_node_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert table(("kind-worker", WELL))[0] == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["NODE", "VERSION", "HEALTH", "ENDPOINT", "CLAIMS"]
    assert row.split(maxsplit=4)[:4] == ["kind-worker", "0.1.0-0123456789ab", "ok", "unix:///run/podwire/cri.sock"]
    assert "2 pods, 1 hostPorts, 252 addresses free" in row


@pytest.mark.parametrize("status", [None, ABSENT], ids=["nothing answered", "podwire-node without an installation"])
def test_a_node_without_podwire_is_no_fault(capsys: pytest.CaptureFixture[str], status: Any) -> None:
    assert table(("kind-worker", status))[0] == 0
    assert "not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"units": {"podwire-shim.service": "failed"}}, "kind-worker: podwire-shim.service is failed"),
        ({"agent": {"ready": False, "says": "no peers"}}, "kind-worker: the agent is not ready: no peers"),
        ({"transaction": "install, complete"}, "podwire-node rollback, or commit"),
        ({"claims": {"fault": "no such folder"}}, "kind-worker: claims: no such folder"),
        ({"runtime": {"ready": False, "conditions": ["NetworkReady"]}}, "the runtime is not ready"),
        ({"fault": "the journal is damaged"}, "kind-worker: the journal is damaged"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_well_is_a_line_below_the_table(
    capsys: pytest.CaptureFixture[str], change: dict[str, Any], says: str
) -> None:
    assert table(("kind-control-plane", WELL), ("kind-worker", {**WELL, **change}))[0] == 1
    lines = capsys.readouterr().out.splitlines()
    assert "faults" in lines[2]
    assert says in lines[3]


def test_an_answer_that_is_no_json_is_a_fault_of_that_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster_table.show(["kind-worker\tTraceback\n"]) == 1
    assert "kind-worker: its status cannot be understood" in capsys.readouterr().out
