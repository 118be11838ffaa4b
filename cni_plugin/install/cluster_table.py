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
            found = {"installed": True, "faults": ["its status cannot be understood"]}
        rows.append(row(name, found))
        faults += [f"{name}: {each}" for each in _faults(found)]
    output = Output(as_json=False)
    output.table(HEADS, rows)
    for fault in faults:
        output.line(fault)
    return 1 if faults else 0


def row(name: str, status: dict[str, Any] | None) -> tuple[str, ...]:
    """One node's line; None is a node without podwire."""
    if not status or not status.get("installed", True):
        return (name, "-", "not installed", "-", "-")
    return (
        name,
        str(status.get("identity") or status.get("version") or "-"),
        "faults" if _faults(status) else "ok",
        str(status.get("endpoint") or "-"),
        str(status.get("claims", "-")),
    )


def _faults(status: dict[str, Any] | None) -> list[str]:
    found = (status or {}).get("faults") or []
    return [str(each) for each in found] if isinstance(found, list) else [str(found)]
