"""Nodes that outlive who made them: `demo --keep`, and what a killed run left in /var/tmp.

Each node's folder holds `node.json`: the processes that hold its namespaces, told apart by their start time, since a
process id is used again.
"""

import contextlib
import json
import os
import signal
from pathlib import Path

from tests.lab.node import TMP, Node, remove_cgroups, remove_folder
from tests.lab.waiting import wait_until

_RECORD = "node.json"


def record(node: Node) -> None:
    """Write down what stop() needs."""
    holders = {str(pid): started for pid in node.holders if (started := _started(pid)) is not None}
    (node.base / _RECORD).write_text(json.dumps({"holders": holders, "cgroup": node.cgroup_parent}) + "\n")


def nodes(kind: str) -> dict[Path, bool]:
    """The recorded nodes of a kind, and whether each still runs."""
    return {file.parent: bool(_live(file)) for file in sorted(TMP.glob(f"podwire-{kind}-*/{_RECORD}"))}


def stop(base: Path) -> None:
    """End a recorded node and remove what it had; nothing of it needs to be alive."""
    file = base / _RECORD
    for pid in _live(file):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # The first process of a node is reaped last, when the kernel has ended all others of its process namespace.
    wait_until(lambda: not _live(file), 30, f"the processes of {base} to end")
    remove_cgroups(json.loads(file.read_text())["cgroup"])
    remove_folder(base)


def sweep(kind: str) -> list[Path]:
    """Remove what nodes without a living process left behind; returns their folders."""
    dead = [base for base, running in nodes(kind).items() if not running]
    for base in dead:
        stop(base)
    return dead


def _live(file: Path) -> list[int]:
    holders = json.loads(file.read_text())["holders"]
    return [int(pid) for pid, started in holders.items() if _started(int(pid)) == started]


def _started(pid: int) -> str | None:
    """Start time in ticks since boot; None for a process that is gone or dead and only not yet reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
