"""Cases 102-110: Exec, Attach and PortForward. The URL is opened, and what was asked happens behind it."""

import struct
from typing import Any

import pytest

from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case
from tests.conformance.cri.streaming import RESIZE, STDERR, STDIN, STDOUT, Refused, Stream

PAGE = b"hello from podwire"


def exec_url(cri: Cri, container: str, *command: str, **streams: bool) -> str:
    wanted = {"stdout": True, "stderr": not streams.get("tty", False), **streams}
    return str(cri.call("Exec", container_id=container, cmd=command, **wanted).url)


@case(102, "streaming", "Exec carries stdout, stderr and the exit code")
@pytest.mark.parametrize(("code", "status"), [(0, "Success"), (7, "Failure")])
def test_exec_carries_stdout_stderr_and_the_exit_code(cri: Cri, code: int, status: str) -> None:
    url = exec_url(cri, cri.resident()[1], "/bin/sh", "-c", f"echo out; echo err >&2; exit {code}")
    with Stream(cri.site, url) as stream:
        received = stream.to_the_end()
        assert (received[STDOUT], received[STDERR]) == (b"out\n", b"err\n")
        assert stream.outcome() == (status, code)


@case(103, "streaming", "Exec carries stdin")
def test_exec_carries_stdin(cri: Cri) -> None:
    url = exec_url(cri, cri.resident()[1], "/bin/sh", "-c", "read line; echo got $line", stdin=True)
    with Stream(cri.site, url) as stream:
        stream.send(STDIN, b"this\n")
        received = stream.to_the_end()
        assert received[STDOUT] == b"got this\n"
        assert stream.outcome() == ("Success", 0)


@case(104, "streaming", "Exec carries a megabyte each way round")
def test_exec_carries_a_megabyte(cri: Cri) -> None:
    url = exec_url(cri, cri.resident()[1], "/bin/busybox", "head", "-c", "1048576", "/dev/zero")
    with Stream(cri.site, url) as stream:
        assert stream.to_the_end()[STDOUT] == bytes(1 << 20)


@case(105, "streaming", "Exec gives a terminal, of the size that is sent")
def test_exec_gives_a_terminal_of_the_size_that_is_sent(cri: Cri) -> None:
    # The size arrives beside the command's start: asked until it is there, for five seconds at most.
    script = (
        "test -t 0 && echo terminal; n=0; "
        "until /bin/busybox stty size 2>/dev/null | /bin/busybox grep '^33 111' || [ $n = 100 ]; "
        "do n=$((n+1)); sleep 0.05; done"
    )
    url = exec_url(cri, cri.resident()[1], "/bin/sh", "-c", script, tty=True, stdin=True)
    with Stream(cri.site, url) as stream:
        stream.send(RESIZE, b'{"Width":111,"Height":33}')
        received = stream.to_the_end()
        assert received[STDOUT].split() == [b"terminal", b"33", b"111"]
        assert STDERR not in received


@case(106, "streaming", "a URL opens once")
def test_a_url_opens_once(cri: Cri) -> None:
    url = exec_url(cri, cri.resident()[1], "true")
    with Stream(cri.site, url) as stream:
        stream.to_the_end()
    with pytest.raises(Refused) as refused, Stream(cri.site, url):
        pass
    assert refused.value.code == 404


@case(107, "streaming", "a request for no stream, or for a terminal's stderr, is refused")
@pytest.mark.parametrize("method", ["Exec", "Attach"])
@pytest.mark.parametrize("wrong", [{}, {"tty": True, "stdout": True, "stderr": True}], ids=["none", "tty and stderr"])
def test_a_request_for_wrong_streams_is_refused(cri: Cri, method: str, wrong: dict[str, Any]) -> None:
    """api.proto: one of stdin, stdout and stderr MUST be true, and stderr MUST be false with tty."""
    command = {"cmd": ["true"]} if method == "Exec" else {}
    assert cri.refused(method, container_id=cri.resident()[1], **command, **wrong).details


@case(108, "streaming", "Attach carries stdin to a container's own process, and its output back")
def test_attach_carries_stdin_and_output(cri: Cri) -> None:
    script = "while read line; do echo got $line; echo on stderr >&2; done"
    container = cri.started(script, stdin=True)
    url = cri.call("Attach", container_id=container, stdin=True, stdout=True, stderr=True).url
    with Stream(cri.site, url) as stream:
        stream.send(STDIN, b"this\n")
        stream.until(lambda received: b"got this\n" in received.get(STDOUT, b""))
        stream.until(lambda received: b"on stderr\n" in received.get(STDERR, b""))
    assert any("got this" in line for line in cri.logged(container, "got this"))


@case(109, "streaming", "PortForward reaches a port of the pod, in its network")
def test_port_forward_reaches_a_port_of_the_pod(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.container(pod, "exec httpd -f -p 127.0.0.1:8080 -h /www")
    cri.serves(container, 8080)
    url = cri.call("PortForward", pod_sandbox_id=pod.id, port=[8080]).url
    with Stream(cri.site, url) as stream:
        stream.until(lambda received: len(received.get(0, b"")) >= 2)
        assert struct.unpack("<H", stream.received[0][:2]) == (8080,)
        stream.send(0, b"GET / HTTP/1.0\r\n\r\n")
        stream.until(lambda received: PAGE in received[0])


@case(110, "streaming", "PortForward to a port that nobody listens on tells so")
def test_port_forward_to_a_closed_port_tells_so(cri: Cri) -> None:
    pod = cri.pod()
    url = cri.call("PortForward", pod_sandbox_id=pod.id, port=[8081]).url
    with Stream(cri.site, url) as stream:
        stream.until(lambda received: len(received.get(1, b"")) > 2 or stream.ended)
        assert b"refused" in stream.received[1]
