"""Cases 93-101: ExecSync, with which kubelet runs probes and hooks."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case
from tests.lab import images


@case(93, "exec", "ExecSync gives exit code, stdout and stderr apart")
def test_exec_sync_gives_exit_code_stdout_and_stderr(cri: Cri) -> None:
    _, container = cri.resident()
    ran = cri.shell(container, "echo out; echo err >&2; exit 7")
    assert (ran.code, ran.out, ran.err) == (7, "out\n", "err\n")


@case(94, "exec", "every exit code arrives, and what a signal ended has 128 and its number")
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137)])
def test_every_exit_code_arrives(cri: Cri, script: str, code: int) -> None:
    assert cri.shell(cri.resident()[1], script).code == code


@case(95, "exec", "a command over its time ends with DEADLINE_EXCEEDED, soon")
def test_a_command_over_its_time_ends_with_deadline_exceeded(cri: Cri) -> None:
    """kubelet tells by this code that a probe has timed out."""
    _, container = cri.resident()
    begun = time.monotonic()
    error = cri.refused("ExecSync", container_id=container, cmd=["sleep", "60"], timeout=1)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.9 <= time.monotonic() - begun < 20


@case(96, "exec", "a command over its time is not left running")
def test_a_command_over_its_time_is_not_left_running(cri: Cri) -> None:
    container = cri.started()
    cri.refused("ExecSync", container_id=container, cmd=["sleep", "1234"], timeout=1)
    assert "sleep 1234" not in cri.ask("ExecSync", container_id=container, cmd=["ps"]).stdout.decode()


@case(97, "exec", "four megabytes of output arrive whole")
def test_four_megabytes_of_output_arrive_whole(cri: Cri) -> None:
    """Beyond gRPC's default limit of one message, and within kubelet's."""
    _, container = cri.resident()
    size = (4 << 20) + 17
    done = cri.ask("ExecSync", container_id=container, cmd=["/bin/busybox", "head", "-c", str(size), "/dev/zero"])
    assert done.stdout == bytes(size)


@case(98, "exec", "a command that does not exist is an error, which names it")
def test_a_command_that_does_not_exist_is_an_error(cri: Cri) -> None:
    _, container = cri.resident()
    error = cri.refused("ExecSync", container_id=container, cmd=["/no/such/command"], timeout=10)
    assert "/no/such/command" in error.details


@case(99, "exec", "a container that does not run executes nothing")
@pytest.mark.parametrize("state", ["created", "exited"])
def test_a_container_that_does_not_run_executes_nothing(cri: Cri, state: str) -> None:
    pod = cri.pod()
    container = cri.create(pod, "exit 0")
    if state == "exited":
        cri.call("StartContainer", container_id=container)
        cri.ended(container)
    assert cri.refused("ExecSync", container_id=container, cmd=["true"]).details


@case(100, "exec", "a command has the user, the folder, the variables and the limits of its container")
def test_a_command_has_what_its_container_has(cri: Cri) -> None:
    security = {"capabilities": {"drop_capabilities": ["ALL"]}, "no_new_privs": True}
    container = cri.started(image=images.PERSON, envs=[{"key": "SHAPE", "value": b"flat"}], security=security)
    told = cri.out(
        container,
        "/bin/busybox id -u; /bin/busybox pwd; echo $SHAPE; "
        "/bin/busybox grep -E '^(CapEff|NoNewPrivs)' /proc/self/status",
    )
    assert told.split() == ["1000", "/www", "flat", "CapEff:", "0" * 16, "NoNewPrivs:", "1"]


@case(101, "exec", "eight commands at once get their own answers")
def test_eight_commands_at_once_get_their_own_answers(cri: Cri) -> None:
    _, container = cri.resident()

    def ask(number: int) -> str:
        return str(cri.ask("ExecSync", container_id=container, cmd=["echo", str(number)], timeout=30).stdout.decode())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [f"{number}\n" for number in range(8)]
