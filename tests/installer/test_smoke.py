"""podwire-node smoke by the plugin alone, on two nodes without a runtime: what works, what fails, what is left."""

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.installer.smoking import BareNode, command, join, lines, smoke, start, stopped
from tests.lab import witness

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def pair() -> Iterator[list[BareNode]]:
    """Two nodes on one link, with routes to each other's pods of both families."""
    with contextlib.ExitStack() as undo:
        made = [undo.enter_context(contextlib.closing(BareNode(number))) for number in (1, 2)]
        join(made)
        # What the first pod makes and leaves stays for the others.
        for node in made:
            start(node, "--direct")
            assert smoke(node, "stop").returncode == 0
        yield made


@pytest.fixture
def nodes(pair: list[BareNode]) -> Iterator[list[BareNode]]:
    """The pair without test pods; afterwards `stop` has taken everything away."""
    before = [witness.of_node(node.namespace, node.base) for node in pair]
    yield pair
    for node, was in zip(pair, before, strict=True):
        stopped(node, was)


def test_every_way_works_in_both_families(nodes: list[BareNode]) -> None:
    made = [start(node) for node in nodes]
    assert {line["through"] for line in made} == {"plugin"}
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


def test_a_missing_route_is_named_with_what_to_look_at(nodes: list[BareNode]) -> None:
    made = [start(node, "--direct") for node in nodes]
    nodes[0].namespace.run(["ip", "route", "replace", "unreachable", "10.244.2.0/24"])
    try:
        done = smoke(nodes[0], "check", "--seconds", "1", stdin=lines(*made))
    finally:
        nodes[0].namespace.run(["ip", "route", "delete", "unreachable", "10.244.2.0/24"])
        nodes[0].namespace.run(["ip", "route", "replace", "10.244.2.0/24", "via", "192.0.2.2"])
    assert done.returncode == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("FAILED: ")]
    first, other = made[0]["node"], made[1]
    assert failed.startswith(f"FAILED: {first} -> {other['node']}, pod {other['pods'][0]['addresses'][0]} port 8474: ")
    assert "does the agent say ready?" in failed
    assert [way["ok"] for way in json.loads(done.stdout)["ways"]].count(False) == 1


def test_traffic_between_pods_that_is_masqueraded_is_a_failure(nodes: list[BareNode]) -> None:
    # As another masquerader beside us would do it.
    chain = "add chain ip smoke c { type nat hook postrouting priority 0; }"
    rule = f"add table ip smoke; {chain}; add rule ip smoke c oif lan masquerade"
    made = [start(node, "--direct") for node in nodes]
    nodes[0].namespace.run(["nft", rule])
    try:
        done = smoke(nodes[0], "check", "--seconds", "1", stdin=lines(*made))
    finally:
        nodes[0].namespace.run(["nft", "delete", "table", "ip", "smoke"])
    assert done.returncode == 1
    assert "the server saw 192.0.2.1, not the pod's 10.244.1." in done.stderr
    assert "something masquerades traffic between pods" in done.stderr


def test_a_route_that_comes_late_is_waited_for(nodes: list[BareNode]) -> None:
    made = [start(node, "--direct") for node in nodes]
    nodes[0].namespace.run(["ip", "route", "replace", "unreachable", "10.244.2.0/24"])
    with subprocess.Popen(
        command(nodes[0], "check", "--seconds", "30"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(lines(*made))
        process.stdin.close()
        assert "8 ways" in process.stderr.readline()
        assert "trying" in process.stderr.readline()
        nodes[0].namespace.run(["ip", "route", "delete", "unreachable", "10.244.2.0/24"])
        nodes[0].namespace.run(["ip", "route", "replace", "10.244.2.0/24", "via", "192.0.2.2"])
        told = process.stderr.read()
        assert process.wait(60) == 0, told


def test_a_second_start_takes_the_first_ones_place(nodes: list[BareNode]) -> None:
    first, second = start(nodes[0], "--direct"), start(nodes[0], "--direct")
    assert first["token"] != second["token"]
    done = smoke(nodes[0], "check", "--seconds", "10")
    assert done.returncode == 0, done.stderr


def test_a_check_without_pods_says_what_to_do(nodes: list[BareNode]) -> None:
    done = smoke(nodes[0], "check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "podwire-node: there are no test pods on this node -> podwire-node smoke start\n"


def test_a_line_that_start_did_not_print_is_shown(nodes: list[BareNode]) -> None:
    start(nodes[0], "--direct")
    done = smoke(nodes[0], "check", stdin='{"node": "x"}\n')
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('podwire-node: line 1 on stdin is not what `smoke start` prints: \'{"node"')
