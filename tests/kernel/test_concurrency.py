"""Many calls at once."""

import contextlib
import json
import os
import subprocess

import pytest

from cni_plugin.claims import Ledger
from tests.kernel.conftest import Answer, Node, netns_path


def start(node: Node, command: str, container: str, netns: str) -> "subprocess.Popen[str]":
    """Start a call without waiting for it."""
    child = subprocess.Popen(
        node.argv(command, container, netns),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdin
    child.stdin.write(json.dumps(node.config))
    child.stdin.close()
    child.stdin = None
    return child


def finish(child: "subprocess.Popen[str]") -> Answer:
    """Wait for a started call."""
    stdout, stderr = child.communicate(timeout=60)
    return Answer(subprocess.CompletedProcess(child.args, child.returncode, stdout, stderr))


def test_fifty_adds_at_once_get_fifty_addresses_and_as_many_dels_leave_nothing(node: Node) -> None:
    pods = [node.pod() for _ in range(50)]
    adds = [start(node, "ADD", f"c{count}", netns_path(pod)) for count, pod in enumerate(pods)]
    addresses = [finish(child).address for child in adds]
    assert len(set(addresses)) == 50
    dels = [start(node, "DEL", f"c{count}", netns_path(pod)) for count, pod in enumerate(pods)]
    assert [finish(child).exit_code for child in dels] == [0] * 50
    assert node.holdings() == []
    assert node.ruleset().count("masquerade fully-random") == 2  # one for each family


def test_of_twenty_adds_of_one_attachment_one_wins(node: Node) -> None:
    path = netns_path(node.pod())
    answers = [finish(child) for child in [start(node, "ADD", "abc", path) for _ in range(20)]]
    assert sorted(answer.exit_code for answer in answers) == [0] + [1] * 19
    assert {answer.json["code"] for answer in answers if answer.exit_code} <= {110, 11}
    assert node.files("addresses") == ["10.244.0.1"]


@pytest.mark.parametrize("first", ["ADD", "DEL"])
def test_add_against_del_of_one_attachment_ends_fully_there_or_fully_gone(node: Node, first: str) -> None:
    path = netns_path(node.pod())
    verbs = [first, "DEL" if first == "ADD" else "ADD"] * 6
    for child in [start(node, verb, "abc", path) for verb in verbs]:
        finish(child)
    holdings = node.holdings()
    assert holdings == [] or len(holdings) == 4, holdings  # link, route, record, claim
    assert node.call("DEL", "abc", path).exit_code == 0
    assert node.holdings() == []


def test_a_call_that_hangs_delays_no_other_attachment(node: Node) -> None:
    node.add("first", node.pod())
    lock_file = str(next(node.state_dir.glob("*/lock")))
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    ledger = object.__new__(Ledger)
    ledger.lock_path, ledger.descriptor = lock_file, descriptor
    try:
        with contextlib.ExitStack() as hung:
            for count in range(500):
                hung.enter_context(ledger.attachment_lock(f"hung{count}", "eth0"))
            for count in range(10):
                assert node.add(f"other{count}", node.pod()).exit_code == 0
    finally:
        os.close(descriptor)
