"""What connection tracking remembers of earlier owners does not reach the next one, and the living keep theirs."""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.kernel.conftest import Node
from tests.kernel.families import Family, both_families
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.root

CLIENT_PORT = 40001
# DEL answers before the children that wait for the kernel are done.
SETTLED_SECONDS = 5

_ECHO = """\
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ":" in sys.argv[1] else 2)
print("ready", flush=True)
connection, peer = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
_CHAT = """\
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


def entries(node: Node, family: Family) -> str:
    """The node's UDP entries from the port that every client here uses."""
    return node.space.run(["conntrack", "-L", "-f", family.name, "-p", "udp", "--sport", str(CLIENT_PORT)]).stdout


def ask(node: Node, family: Family) -> str:
    """The outside asks the hostPort by UDP, always as the same conversation."""
    return node.ask(node.outside, family.node, 8080, "udp", family.outside, CLIENT_PORT)


def refused(node: Node, family: Family) -> bool:
    """The same, when no answer is due."""
    return node.refused(node.outside, family.node, 8080, "udp", family.outside, CLIENT_PORT)


@both_families
def test_a_client_that_asked_too_early_is_answered_once_the_host_port_is_there(node: Node, family: Family) -> None:
    family.use(node)
    # Connection tracking works from the first rule that needs it: this pod's.
    node.add("first", node.pod())
    assert refused(node, family)
    assert f"dport=8080 [UNREPLIED] src={family.node}" in entries(node, family)
    pod = node.pod()
    node.add("abc", pod, ("udp", 8080, 80))
    node.serve(pod, family.anywhere, 80, "udp")
    assert ask(node, family) == family.outside


@both_families
def test_a_conversation_follows_its_host_port_to_the_next_pod(node: Node, family: Family) -> None:
    family.use(node)
    first, second = node.pod(), node.pod()
    before = node.add("first", first, ("udp", 8080, 80)).address
    node.serve(first, family.anywhere, 80, "udp")
    assert ask(node, family) == family.outside
    assert f"src={before}" in entries(node, family)
    assert node.call("DEL", "first").exit_code == 0
    assert node.add("second", second, ("udp", 8080, 80)).address != before
    node.serve(second, family.anywhere, 80, "udp")
    assert ask(node, family) == family.outside


@both_families
def test_an_address_that_is_used_again_inherits_no_conversation(node: Node, family: Family) -> None:
    family.use(node)
    subnet = {"ipv4": "10.244.0.4/30", "ipv6": "fd00:10:244::4/126"}[family.name]
    only = {"ipv4": "10.244.0.5", "ipv6": "fd00:10:244::5"}[family.name]
    node.config["ipam"] = {"ranges": [[{"subnet": subnet, "rangeStart": only, "rangeEnd": only}]]}
    first, second = node.pod(), node.pod()
    assert node.add("first", first, ("udp", 8080, 80)).address == only
    node.serve(first, family.anywhere, 80, "udp")
    assert ask(node, family) == family.outside
    assert node.call("DEL", "first").exit_code == 0
    wait_until(lambda: only not in entries(node, family), SETTLED_SECONDS, "the entries of the freed address to go")
    assert node.add("second", second).address == only
    node.serve(second, family.anywhere, 80, "udp")
    # Without its hostPort the pod would be found through nothing but the entry.
    assert refused(node, family)
    assert node.ask(node.space, only, 80, "udp") == family.node


@both_families
def test_connections_of_other_pods_outlive_any_add_and_del(node: Node, family: Family) -> None:
    family.use(node)
    pod, other = node.pod(), node.pod()
    node.add("abc", pod, ("tcp", 8081, 80))
    node.add("masqueraded", other)
    with ExitStack() as stack:
        chats = []
        for server, address, port, client, where, seen in (
            (pod, family.anywhere, 80, node.outside, family.node, 8081),
            (node.outside, family.outside, 90, other, family.outside, 90),
            (node.space, family.node, 8080, node.outside, family.node, 8080),
        ):
            log = node.folder / f"echo-{port}"
            daemon = server.start([sys.executable, "-c", _ECHO, address, str(port)], log)
            stack.callback(daemon.kill)
            wait_until(lambda log=log: log.read_text() == "ready\n", 5, "the server")  # type: ignore[misc]
            chat = subprocess.Popen(
                client.command([sys.executable, "-c", _CHAT, where, str(seen)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(chat)
            stack.callback(chat.kill)
            chats.append(chat)

        def all_answer(word: str) -> None:
            for chat in chats:
                assert chat.stdin is not None
                assert chat.stdout is not None
                chat.stdin.write(f"{word}\n")
                chat.stdin.flush()
                assert chat.stdout.readline() == f"{word}\n"

        all_answer("before")
        # This hostPort shadows the port that the node itself answers on: who talks with the node already goes on.
        node.add("new", node.pod(), ("udp", 8080, 80), ("tcp", 8080, 80))
        all_answer("after ADD")
        assert node.call("DEL", "new").exit_code == 0
        all_answer("after DEL")
        assert node.call("DEL", "abc").exit_code == 0
        chats.pop(0)
        all_answer("after another DEL")
