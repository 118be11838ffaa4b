"""Exec, Attach and PortForward: their URLs come through the shim as the runtime gave them, and work."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.lab import streaming
from tests.lab.cri import CriClient, Pod
from tests.lab.images import TOOLS
from tests.lab.node import Node
from tests.lab.traffic import get_from_namespace

URL = re.compile(r"http://127\.0\.0\.1:\d+/(exec|attach|portforward)/[\w-]{8}")
SLEEP = "exec sleep 3600"


def exec_url(node: Node, container: str, *command: str, **fields: bool) -> str:
    streams: dict[str, Any] = {"stdin": False, "stdout": True, "stderr": True, "tty": False, **fields}
    return str(node.cri.call("Exec", container_id=container, cmd=list(command), **streams).url)


@pytest.fixture
def pod(node: Node) -> Pod:
    return node.run_pod("pod")


@pytest.fixture
def container(node: Node, pod: Pod) -> str:
    return node.run_tools(pod, "shell", SLEEP)


def test_the_url_is_the_runtimes_own(node: Node, container: str) -> None:
    relayed = exec_url(node, container, "true")
    with CriClient(node.containerd_socket) as direct:
        own = direct.call("Exec", container_id=container, cmd=["true"], stdout=True).url
    assert URL.fullmatch(relayed)
    # The token is new for each request; scheme, host and port are the streaming server's.
    assert urlsplit(relayed)[:2] == urlsplit(own)[:2]


def test_exec_runs_with_output_errors_and_exit_code(node: Node, container: str) -> None:
    url = exec_url(node, container, "sh", "-c", "echo out; echo err >&2; exit 7")
    outcome = streaming.run(node.namespace, url)
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"out\n", b"err\n", 7)


def test_a_token_is_good_for_one_use_only(node: Node, container: str) -> None:
    url = exec_url(node, container, "true")
    assert streaming.run(node.namespace, url).exit_code == 0
    with pytest.raises(streaming.StreamingError, match="404"):
        streaming.run(node.namespace, url)


def test_exec_reads_what_its_client_sends(node: Node, container: str) -> None:
    url = exec_url(node, container, "sh", "-c", 'read line; echo "<$line>"', stdin=True)
    outcome = streaming.run(node.namespace, url, stdin=b"a word \xc3\xa9\n", until=b">\n")
    assert outcome.stdout == b"<a word \xc3\xa9>\n"


def test_a_megabyte_comes_out_of_an_exec_whole(node: Node, container: str) -> None:
    script = "busybox dd if=/dev/zero bs=1024 count=1024 2>/dev/null | busybox tr '\\000' x"
    outcome = streaming.run(node.namespace, exec_url(node, container, "sh", "-c", script))
    assert (outcome.stdout, outcome.exit_code) == (b"x" * (1 << 20), 0)


def test_a_terminal_has_the_size_its_client_gives_it(node: Node, container: str) -> None:
    script = "while [ \"$(busybox stty size 2>&1)\" != '40 123' ]; do busybox usleep 20000; done; busybox stty size"
    url = exec_url(node, container, "sh", "-c", script, stdin=True, stderr=False, tty=True)
    outcome = streaming.run(node.namespace, url, stdin=b"", until=b"40 123", size=(123, 40))
    assert outcome.stdout == b"40 123\r\n"


def test_attach_sees_the_containers_output_and_feeds_its_input(node: Node, pod: Pod) -> None:
    config = {
        "metadata": {"name": "echo"},
        "image": {"image": TOOLS},
        "command": ["/bin/sh", "-c", 'while read line; do echo "<$line>"; done'],
        "stdin": True,
        "log_path": "echo.log",
    }
    created = node.cri.call("CreateContainer", pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
    node.cri.call("StartContainer", container_id=created.container_id)
    url = node.cri.call("Attach", container_id=created.container_id, stdin=True, stdout=True, stderr=True).url
    outcome = streaming.run(node.namespace, url, stdin=b"typed\n", until=b">\n")
    assert outcome.stdout == b"<typed>\n"


def test_a_port_forward_reaches_a_server_in_the_pod(node: Node, pod: Pod) -> None:
    node.run_tools(pod, "httpd", "exec httpd -f -p 8080 -h /www")
    assert "podwire" in get_from_namespace(node.namespace, node.cri.address(pod), 8080)
    url = node.cri.call("PortForward", pod_sandbox_id=pod.id, port=[8080]).url
    answer = streaming.forward(node.namespace, url, 8080, b"GET /index.html HTTP/1.0\r\n\r\n", b"podwire")
    assert b"hello from podwire" in answer


def test_a_port_nobody_serves_is_refused_in_the_runtimes_words(node: Node, pod: Pod) -> None:
    url = node.cri.call("PortForward", pod_sandbox_id=pod.id, port=[8081]).url
    with pytest.raises(streaming.StreamingError, match="refused"):
        streaming.forward(node.namespace, url, 8081, b"x", b"never")
