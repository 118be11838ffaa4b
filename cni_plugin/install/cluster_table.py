"""Many nodes' `podwire-node status --json` as one table."""

import json
from collections.abc import Iterable
from typing import Any

from cni_plugin.net.output import Output

HEADS = ("NODE", "VERSION", "HEALTH", "ENDPOINT", "CLAIMS")


def show(lines: Iterable[str]) -> int:
    """Print the table of `NAME<tab>JSON` lines; the exit code is 1 when a node with podwire is not well."""
    rows, faults = [], []
    for line in lines:
        name, _, text = line.rstrip("\n").partition("\t")
        try:
            found: Any = json.loads(text) if text.strip() else None
        except ValueError:
            found = {"fault": "its status cannot be understood"}
        rows.append(row(name, found))
        faults += [f"{name}: {each}" for each in _faults(found)]
    output = Output(as_json=False)
    output.table(HEADS, rows)
    for fault in faults:
        output.line(fault)
    return 1 if faults else 0


def row(name: str, status: dict[str, Any] | None) -> tuple[str, ...]:
    """One node's line; None is a node without podwire."""
    if not _is_there(status):
        return (name, "-", "not installed", "-", "-")
    assert status is not None
    return (
        name,
        str(status.get("current") or status.get("installed") or "-"),
        "faults" if _faults(status) else "ok",
        str(_within(status, "kubelet", "endpoint") or "-"),
        _claims(status.get("claims")),
    )


def _is_there(status: dict[str, Any] | None) -> bool:
    return bool(status and (status.get("installed") or status.get("transaction") or "fault" in status))


def _within(status: dict[str, Any], part: str, key: str) -> Any:
    found = status.get(part)
    return found.get(key) if isinstance(found, dict) else None


def _claims(claims: Any) -> str:
    if not isinstance(claims, dict) or "attachments" not in claims:
        return "-"
    free = sum(pool["free"] for pool in claims.get("pools", []))
    return f"{claims['attachments']} pods, {claims['hostPorts']} hostPorts, {free} addresses free"


def _faults(status: dict[str, Any] | None) -> list[str]:
    """What is not well, each as one line; the keys are those of `podwire-node status --json`."""
    if status is None or not _is_there(status):
        return []
    found = [str(status["fault"])] if "fault" in status else []
    for part in ("units", "kubelet", "claims", "runtime"):
        fault = _within(status, part, "fault")
        if fault:
            found.append(f"{part}: {fault}")
    if status.get("transaction"):
        found.append(f"open transaction: {status['transaction']} -> podwire-node rollback, or commit")
    if status.get("removing"):
        found.append("it is being removed -> podwire-node uninstall")
    units = status.get("units")
    if isinstance(units, dict):
        found += [f"{unit} is {state}" for unit, state in units.items() if unit != "fault" and state != "active"]
    if _within(status, "agent", "ready") is False:
        found.append(f"the agent is not ready: {_within(status, 'agent', 'says')}")
    if _within(status, "runtime", "ready") is False:
        found.append(f"the runtime is not ready: {json.dumps(_within(status, 'runtime', 'conditions'))}")
    return found
