"""podwire-node smoke by the runtime, on two real nodes on one link; by the plugin alone see tests/installer."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installer.smoking import command, configuration, join, lines, smoke, start, stopped
from tests.lab import witness
from tests.lab.containerd import ContainerdBinary
from tests.lab.node import Node
from tests.lab.waiting import wait_until


@pytest.fixture(scope="module")
def pair(usable: ContainerdBinary) -> Iterator[list[Node]]:
    """Two nodes on one link, with routes to each other's pods of both families."""
    with contextlib.ExitStack() as undo:
        made = [
            undo.enter_context(contextlib.closing(Node(usable, configuration=configuration(number))))
            for number in (1, 2)
        ]
        join(made)
        # What the first pod makes and leaves stays for the others.
        for node in made:
            node.remove_pod(node.run_pod("first"))
        yield made


@pytest.fixture
def nodes(pair: list[Node]) -> Iterator[list[Node]]:
    """The pair without test pods; afterwards `stop` has taken everything away."""
    before = [witness.of_node(node.namespace, node.base) for node in pair]
    yield pair
    for node, was in zip(pair, before, strict=True):
        stopped(node, was)


def test_every_way_works_in_both_families(nodes: list[Node]) -> None:
    made = [start(node) for node in nodes]
    assert {line["through"] for line in made} == {"runtime"}
    for node in nodes:
        done = smoke(node, "check", "--seconds", "10", stdin=lines(*made))
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        # To two nodes: the pod and the hostPort, in two families.
        assert len(told["ways"]) == 8
        assert {way["ok"] for way in told["ways"]} == {True}
        to_pods = [way for way in told["ways"] if way["kind"] == "pod"]
        assert {way["saw"] for way in to_pods} == {address for way in to_pods for address in way["source"]}
    stopped = smoke(nodes[0], "stop")
    assert (stopped.returncode, stopped.stderr.startswith("removed: the server, ")) == (0, True), stopped.stderr


def test_what_a_killed_start_made_is_taken_away(nodes: list[Node]) -> None:
    node = nodes[0]
    before = witness.of_node(node.namespace, node.base)
    with subprocess.Popen(
        command(node, "start", "--cgroup-parent", node.cgroup_parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        state = node.base / "run/podwire/smoke.json"
        wait_until(lambda: state.exists() and "smoke-a" in state.read_text(), 60, "the first pod")
        process.kill()
        process.communicate(timeout=30)
    # nsenter was killed, not what it started, which may need a moment to see that its pipes are gone.
    wait_until(lambda: not _running(node), 60, "the command to end")
    assert smoke(node, "stop").returncode == 0
    assert not witness.settled(before, lambda: witness.of_node(node.namespace, node.base))


def _running(node: Node) -> bool:
    return any(b"smoke\0start" in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
