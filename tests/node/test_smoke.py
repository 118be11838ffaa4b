"""podwire-node smoke on two real nodes on one link: every way works, what is broken is named, nothing stays."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import images, witness
from tests.lab.containerd import ContainerdBinary
from tests.lab.netns import connect
from tests.lab.node import Node, conflist
from tests.lab.waiting import wait_until

PORT = "29474"
# What an installation leaves where podwire-node looks: the node's folder is its root.
RUN = """
import sys
from pathlib import Path
from cni_plugin.install.__main__ import main
from cni_plugin.install.places import Places
sys.exit(main(sys.argv[2:], Places(Path(sys.argv[1]))))
"""
PYTHON = ["env", f"PYTHONPATH={images.REPOSITORY}", "PYTHONDONTWRITEBYTECODE=1", sys.executable]


def smoke(node: Node, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(node, *words), input=stdin, capture_output=True, text=True, timeout=120)


def command(node: Node, *words: str) -> list[str]:
    return node.namespace.command([*PYTHON, "-c", RUN, str(node.base), "smoke", *words])


def start(node: Node, *words: str) -> dict[str, Any]:
    done = smoke(node, "start", "--node", node_name(node), "--cgroup-parent", node.cgroup_parent, *words)
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout)
    return line


def node_name(node: Node) -> str:
    return f"node-{node.base.name[-4:]}"


def lines(*made: dict[str, Any]) -> str:
    return "".join(json.dumps(line) + "\n" for line in made)


def snapshot(node: Node) -> witness.Snapshot:
    return witness.of_node(node.namespace, node.base)


@pytest.fixture(scope="module")
def pair(usable: ContainerdBinary) -> Iterator[list[Node]]:
    """Two nodes on one link, with routes to each other's pods of both families."""
    number = {"a": 1, "b": 2}
    cluster = ["10.244.0.0/16", "fd00:10:244::/56"]
    made: list[Node] = []
    try:
        for each in number.values():
            ranges = [[{"subnet": f"10.244.{each}.0/24"}], [{"subnet": f"fd00:10:244:{each}::/64"}]]
            node = Node(usable, configuration=conflist(ipam={"ranges": ranges}, noMasquerade=cluster))
            made.append(node)
            (node.base / "opt/cni").mkdir(parents=True)
            (node.base / "opt/cni/bin").symlink_to(node.base / "cni/bin")
            (node.base / "etc/cni").mkdir(parents=True)
            (node.base / "etc/cni/net.d").symlink_to(node.base / "cni/conf")
            (node.base / "cni/conf/10-podwire.conflist").rename(node.base / "cni/conf/05-podwire.conflist")
        connect(made[0].namespace, "lan", "192.0.2.1/24", made[1].namespace, "lan", "192.0.2.2/24")
        for node, own, other in ((made[0], 1, 2), (made[1], 2, 1)):
            for words in (
                ["ip", "address", "add", f"2001:db8::{own}/64", "dev", "lan", "nodad"],
                ["ip", "route", "replace", "default", "via", f"192.0.2.{other}"],
                ["ip", "route", "add", "default", "via", f"2001:db8::{other}"],
                ["ip", "route", "add", f"10.244.{other}.0/24", "via", f"192.0.2.{other}"],
                ["ip", "route", "add", f"fd00:10:244:{other}::/64", "via", f"2001:db8::{other}"],
                ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"],
            ):
                node.namespace.run(words)
        # What the first pod makes and leaves stays for the others.
        for node in made:
            node.remove_pod(node.run_pod("first"))
        yield made
    finally:
        for node in made:
            node.close()


@pytest.fixture
def nodes(pair: list[Node]) -> Iterator[list[Node]]:
    """The pair without test pods; afterwards `stop` has taken everything away."""
    before = [snapshot(node) for node in pair]
    yield pair
    for node, was in zip(pair, before, strict=True):
        smoke(node, "stop")
        left = witness.settled(was, lambda node=node: snapshot(node))  # type: ignore[misc]
        assert not left, "left on the node:\n" + "\n".join(left)
        assert not [path for path in (node.base / "run/podwire").iterdir() if path.name.startswith("smoke")]


@pytest.mark.parametrize("how", [[], ["--direct"]], ids=["by the runtime", "by the plugin"])
def test_every_way_works_in_both_families(how: list[str], nodes: list[Node]) -> None:
    made = [start(node, *how) for node in nodes]
    assert {line["through"] for line in made} == {"plugin" if how else "runtime"}
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


def test_a_missing_route_is_named_with_what_to_look_at(nodes: list[Node]) -> None:
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


def test_traffic_between_pods_that_is_masqueraded_is_a_failure(nodes: list[Node]) -> None:
    place = nodes[0].base / "cni/conf/05-podwire.conflist"
    kept = place.read_text()
    narrow = json.loads(kept)
    narrow["plugins"][0]["noMasquerade"] = []
    nodes[0].namespace.run(["nft", "delete", "table", "inet", "podwire1"])
    place.write_text(json.dumps(narrow))
    try:
        made = [start(node, "--direct") for node in nodes]
        done = smoke(nodes[0], "check", "--seconds", "1", stdin=lines(*made))
    finally:
        smoke(nodes[0], "stop")
        place.write_text(kept)
        nodes[0].namespace.run(["nft", "delete", "table", "inet", "podwire1"])
        # The next pod makes the table with all destinations again, as the nodes had it.
        nodes[0].remove_pod(nodes[0].run_pod("first"))
    assert done.returncode == 1
    assert "the server saw 192.0.2.1, not the pod's 10.244.1." in done.stderr
    assert "something masquerades traffic between pods" in done.stderr


def test_a_route_that_comes_late_is_waited_for(nodes: list[Node]) -> None:
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


def test_what_a_killed_start_made_is_taken_away(nodes: list[Node]) -> None:
    node = nodes[0]
    before = snapshot(node)
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
    assert not witness.settled(before, lambda: snapshot(node))


def _running(node: Node) -> bool:
    return any(b"smoke\0start" in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())


def test_a_second_start_takes_the_first_ones_place(nodes: list[Node]) -> None:
    first, second = start(nodes[0], "--direct"), start(nodes[0], "--direct")
    assert first["token"] != second["token"]
    done = smoke(nodes[0], "check", "--seconds", "10")
    assert done.returncode == 0, done.stderr


def test_a_check_without_pods_says_what_to_do(nodes: list[Node]) -> None:
    done = smoke(nodes[0], "check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "podwire-node: there are no test pods on this node -> podwire-node smoke start\n"


def test_a_line_that_start_did_not_print_is_shown(nodes: list[Node]) -> None:
    start(nodes[0], "--direct")
    done = smoke(nodes[0], "check", stdin='{"node": "x"}\n')
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('podwire-node: line 1 on stdin is not what `smoke start` prints: \'{"node"')
