"""Nodes that outlive who made them: `demo --keep`, and what a killed run left in /var/tmp.

Each node's folder holds `node.json`: the processes that hold its namespaces, told apart by their start time, since a
process id is used again.
"""

import contextlib
import json
import os
import signal
from pathlib import Path

from tests.lab.netns import started
from tests.lab.node import RECORD, TMP, remove_cgroups, remove_folder
from tests.lab.waiting import wait_until


def nodes(kind: str) -> dict[Path, bool]:
    """The recorded nodes of a kind, and whether each still runs."""
    return {file.parent: bool(_live(file)) for file in sorted(TMP.glob(f"podwire-{kind}-*/{RECORD}"))}


def stop(base: Path) -> None:
    """End a recorded node and remove what it had; nothing of it needs to be alive."""
    file = base / RECORD
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
    return [int(pid) for pid, ticks in holders.items() if started(int(pid)) == ticks]
