"""Two hundred calls at once, twenty of one attachment, the first of a node, a holder of a lock that stands still."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin import locks
from tests.crash.matrix import CONFIGURATIONS, host_ports, trace
from tests.lab import audit
from tests.lab.threadnode import ThreadNode, finished


@pytest.fixture
def plain(node: ThreadNode, launcher: Path) -> ThreadNode:
    """A node on which the executable is the real one, without failpoints."""
    node.executable = launcher.with_name("podwire")
    return node


def test_two_hundred_adds_at_once_all_succeed_and_as_many_dels_leave_nothing(plain: ThreadNode) -> None:
    assert plain.call("ADD", "stays", plain.pod("stays"), **host_ports("masquerade and hostPorts", 999)).exit_code == 0
    baseline = plain.holdings()
    for count in range(200):
        plain.pod(f"c{count}")
    adds = finished(
        [
            plain.start(
                "ADD", f"c{count}", plain.pods[f"c{count}"], **host_ports("masquerade and hostPorts", 1000 + count)
            )
            for count in range(200)
        ]
    )
    assert [reply for reply in adds if reply.exit_code] == []
    answered = [reply.json["ips"][0]["address"] for reply in adds]
    assert len(set(answered)) == 200
    held = plain.addresses()
    assert [f"{held[f'c{count}'][0]}/32" for count in range(200)] == answered
    dels = finished([plain.start("DEL", f"c{count}", plain.pods[f"c{count}"]) for count in range(200)])
    assert [(reply.exit_code, reply.stdout) for reply in dels] == [(0, "")] * 200
    plain.quiet()
    assert audit.difference(baseline, plain.holdings()) == []


def test_of_twenty_adds_of_one_attachment_exactly_one_wins_and_its_pod_works(plain: ThreadNode) -> None:
    pod = plain.pod()
    replies = finished([plain.start("ADD", "abc", pod) for _ in range(20)])
    won = [reply for reply in replies if reply.exit_code == 0]
    assert len(won) == 1, replies
    assert {reply.code for reply in replies if reply.exit_code} <= {110, 103, 11}
    checked = plain.call("CHECK", "abc", pod, prevResult=won[0].json)
    assert checked.exit_code == 0, checked
    assert len(list(plain.state_dir.glob("*/addresses/*"))) == 1


def test_the_nodes_first_adds_come_at_once_and_all_succeed(plain: ThreadNode) -> None:
    for _ in range(5):
        plain.quiet()
        plain.forget_state()
        plain.run(["nft", "flush", "ruleset"])
        pods = [plain.pod() for _ in range(8)]
        replies = finished([plain.start("ADD", f"c{count}", pod) for count, pod in enumerate(pods)])
        assert [reply for reply in replies if reply.exit_code] == []
        assert [plain.call("DEL", f"c{count}").exit_code for count in range(8)] == [0] * 8


def outside_the_nodes_lock(node: ThreadNode, configuration: str) -> Iterator[str]:
    """Failpoints that stop the node's first ADD after each of its steps at which it does not hold the node's lock."""
    held = False
    for step in trace(node, configuration, "ADD", first=True):
        if step.name.endswith(" node"):
            held = " lock " in step.name
        if not held:
            yield step.stop("after")


def test_wherever_the_nodes_first_add_has_come_another_one_succeeds(node: ThreadNode) -> None:
    configuration = "masquerade and hostPorts"
    for failpoint in list(outside_the_nodes_lock(node, configuration)):
        node.forget_state()
        node.run(["sh", "-ec", "nft flush ruleset; echo 0 >/proc/sys/net/ipv4/ip_forward"])
        first = node.start("ADD", "first", node.pod(), failpoint=failpoint, **host_ports(configuration, 80))
        first.wait_stopped()
        second = node.call("ADD", "second", node.pod(), **host_ports(configuration, 81))
        first.process.send_signal(signal.SIGCONT)
        done = first.finish()
        assert second.exit_code == 0, f"{failpoint}: {second}"
        assert done.exit_code == 0, f"{failpoint}: {done}"
        assert [node.call("DEL", each).exit_code for each in ("first", "second")] == [0, 0]


@pytest.mark.parametrize("which", ["key", "node"])
def test_while_a_holder_of_a_lock_stands_still_others_say_try_again_and_lose_nothing(
    node: ThreadNode, which: str
) -> None:
    node.config |= CONFIGURATIONS["plain"]
    steps = trace(node, "plain", "ADD")
    locked = next(step for step in steps if step.name.endswith(f" lock {which}"))
    results = {name: node.call("ADD", name, node.pod(name)).json for name in ("one", "two")}
    baseline = node.holdings()
    holder = node.start("ADD", "abc", node.pod("abc"), failpoint=locked.stop("after"))
    holder.wait_stopped()
    same = [node.start(verb, "abc", node.pods["abc"]) for verb in ("ADD", "DEL")]
    other = [node.start("ADD", "xyz", node.pod("xyz")), node.start("DEL", "one", node.pods["one"])]
    # What takes no lock goes on meanwhile.
    assert node.call("CHECK", "two", node.pods["two"], prevResult=results["two"]).exit_code == 0
    assert node.call("STATUS").exit_code == 0
    assert [reply.code for reply in finished(same)] == [11, 11]
    replies = finished(other)
    if which == "key":
        assert [reply.exit_code for reply in replies] == [0, 0]
    else:
        assert [reply.code for reply in replies] == [11, 11]
        assert f"{locks.LOCK_WAIT_SECONDS:g} s" in replies[0].json["msg"]
    holder.process.send_signal(signal.SIGCONT)
    done = holder.finish()
    assert done.exit_code == 0, done
    assert node.call("CHECK", "abc", node.pods["abc"], prevResult=done.json).exit_code == 0
    for name in ("abc", "xyz"):
        assert node.call("DEL", name, node.pods[name]).exit_code == 0
    node.call("DEL", "one", node.pods["one"])
    node.drop_pod("one")
    assert node.call("ADD", "one", node.pod("one")).exit_code == 0
    node.quiet()
    left = audit.difference(baseline, node.holdings())
    # `one` may have got another address than before.
    assert len([line for line in left if line.startswith("+")]) == len([line for line in left if line.startswith("-")])
    assert not any("abc" in json.dumps(line) for line in left)


def test_flushed_rules_of_all_pods_are_back_with_the_next_add(plain: ThreadNode) -> None:
    configuration = "masquerade and hostPorts"
    for count in range(10):
        reply = plain.call("ADD", f"c{count}", plain.pod(), **host_ports(configuration, 1000 + count))
        assert reply.exit_code == 0, reply
    before = {line for line in plain.holdings() if line.startswith("nft")}
    assert sum("element" in line for line in before) == 30
    plain.run(["nft", "flush", "ruleset"])
    replies = finished([plain.start("ADD", f"next{count}", plain.pod()) for count in range(4)])
    assert [reply for reply in replies if reply.exit_code] == []
    assert {line for line in plain.holdings() if line.startswith("nft")} == before
