"""A killed DEL or GC has freed an address and a hostPort; whoever got them meanwhile is never touched."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.crash.matrix import BYSTANDER, Matrix, Point, host_ports, points, trace
from tests.lab.netns import children
from tests.lab.threadnode import ThreadNode
from tests.lab.waiting import wait_until

CONFIGURATION = "dual stack"
# The bystander has one address of each family, the old pod and then the new one have the other.
POOL = {
    "ranges": [
        [{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.1", "rangeEnd": "10.244.0.2"}],
        [{"subnet": "fd00:10:244::/112", "rangeStart": "fd00:10:244::1", "rangeEnd": "fd00:10:244::2"}],
    ],
    "cooldownSeconds": 0,
}
PORTS = host_ports(CONFIGURATION, 999)


def harmed(matrix: Matrix, verb: str, point: Point, how: str) -> str:
    """Kill, attach a successor, try again; what CHECK of the successor says, if it says anything."""
    node = matrix.node
    for name in ("old", "new"):
        matrix.pod(name)
    assert node.call("ADD", "old", node.pods["old"], **PORTS).exit_code == 0
    failpoint = point.step.kill(point.when)
    if verb == "GC":
        node.gc(BYSTANDER, failpoint=failpoint)
    else:
        node.call("DEL", "old", node.pods["old"], failpoint=failpoint)
    node.quiet()
    fault = ""
    new = node.call("ADD", "new", node.pods["new"], **PORTS)
    if new.exit_code == 0:
        if how == "GC":
            assert node.gc(BYSTANDER, "new").exit_code == 0
        else:
            # ADD of the old one finds hostPort and addresses taken, but clears what is left of itself before.
            node.call(how, "old", node.pods["old"], **PORTS)
        checked = node.call("CHECK", "new", node.pods["new"], prevResult=new.json, **PORTS)
        fault = "" if checked.exit_code == 0 else f"killed {point}: {checked.json['msg']}"
    else:
        assert new.code in (100, 109), new  # not yet freed
    for name in ("old", "new"):
        assert node.call("DEL", name, node.pods[name]).exit_code == 0
        node.drop_pod(name)
    return fault


@pytest.mark.parametrize("how", ["DEL", "ADD", "GC"])
@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_a_second_try_never_touches_the_new_owner(
    node: ThreadNode, launcher: Path, tmp_path: Path, verb: str, how: str, request: pytest.FixtureRequest
) -> None:
    steps = [step for step in trace(node, CONFIGURATION, verb) if step.process == "0"]
    if not request.config.getoption("--soak"):
        # What is released is files: from the first of them on.
        first = next(index for index, step in enumerate(steps) if "/addresses/" in step.name)
        steps = steps[first:]
    matrix = Matrix(launcher, tmp_path / "matrix", CONFIGURATION, ipam=POOL)
    with matrix.node:
        # Before a step is after the one before it: nothing is freed in between.
        chosen: list[Point] = [point for point in points(steps) if point.when == "after"]
        faults: list[Any] = [fault for point in chosen if (fault := harmed(matrix, verb, point, how))]
        assert faults == []
        assert matrix.leftovers() == []


def _stopped_children(parent: int) -> list[int]:
    states = {
        child: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children(parent)
    }
    return [child for child, state in states.items() if state == "T"]


def test_a_child_that_outlives_its_killed_del_never_touches_the_new_owner(
    node: ThreadNode, launcher: Path, tmp_path: Path
) -> None:
    steps = trace(node, CONFIGURATION, "DEL")
    removal = next(step for step in steps if step.process == "0.1" and step.name.startswith("netfilter"))
    matrix = Matrix(launcher, tmp_path / "matrix", CONFIGURATION, ipam=POOL)
    with matrix.node:
        pods = {name: matrix.pod(name) for name in ("old", "new")}
        assert matrix.node.call("ADD", "old", pods["old"], **PORTS).exit_code == 0
        call = matrix.node.start("DEL", "old", pods["old"], failpoint=removal.stop("before"))
        child = wait_until(lambda: _stopped_children(call.pid), 10, "the child to stop", every=0.002)[0]
        call.process.kill()
        call.finish()
        # Code 11 would be right too: somebody is still at work on it.
        again = matrix.node.call("DEL", "old", pods["old"])
        new = matrix.node.call("ADD", "new", pods["new"], **PORTS)
        os.kill(child, signal.SIGCONT)
        matrix.node.quiet()
        if new.exit_code == 0:
            checked = matrix.node.call("CHECK", "new", pods["new"], prevResult=new.json, **PORTS)
            assert checked.exit_code == 0, checked
        else:
            assert again.code == 11
        for name, path in pods.items():
            assert matrix.node.call("DEL", name, path).exit_code == 0
        assert matrix.leftovers() == []
