"""Cases 24-43: the life of a container, and what it runs."""

import time

import grpc
import pytest

from cri_shim import schema
from tests.conformance.cri.bench import EXITED, RUNNING, WAIT, Cri
from tests.conformance.cri.cases import case
from tests.conformance.cri.test_pods import UNKNOWN_ID
from tests.lab import images

CREATED = schema.enum("ContainerState")["CONTAINER_CREATED"]
OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
ON_TERM = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done"


@case(24, "containers", "a container is created, running and exited, in this order of times")
def test_a_container_is_created_running_and_exited(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.create(pod)
    assert cri.status(container).state == CREATED
    cri.call("StartContainer", container_id=container)
    running = cri.status(container)
    assert running.state == RUNNING
    assert not running.finished_at
    cri.call("StopContainer", container_id=container, timeout=0)
    status = cri.status(container)
    assert status.state == EXITED
    assert time.time_ns() >= status.finished_at >= status.started_at >= status.created_at > 0


@case(25, "containers", "its status holds what it was asked to be")
def test_its_status_holds_what_it_was_asked_to_be(cri: Cri) -> None:
    pod = cri.pod()
    given = cri.request(pod, labels={"tier": "front"}, annotations={"example.org/text": "ünï"}, attempt=2)
    container = cri.call("CreateContainer", **given).container_id
    status = cri.status(container)
    assert (status.metadata.name, status.metadata.attempt) == ("main", 2)
    assert dict(status.labels) == given["config"]["labels"]
    assert dict(status.annotations) == {"example.org/text": "ünï"}
    assert status.image.image == images.TOOLS
    image = cri.call("ImageStatus", image={"image": images.TOOLS}).image
    assert status.image_ref in {image.id, *image.repo_digests, *image.repo_tags}
    assert status.log_path == str(pod.logs / "main.log")


@case(26, "containers", "the exit code is kept, and the reason says whether it was an error")
@pytest.mark.parametrize(("script", "code", "reason"), [("exit 0", 0, "Completed"), ("exit 42", 42, "Error")])
def test_the_exit_code_is_kept(cri: Cri, script: str, code: int, reason: str) -> None:
    status = cri.ended(cri.started(script))
    assert (status.exit_code, status.reason) == (code, reason)


@case(27, "containers", "StopContainer gives a container its time to end")
def test_stop_gives_a_container_its_time_to_end(cri: Cri) -> None:
    container = cri.started(ON_TERM)
    cri.logged(container, "ready")
    cri.call("StopContainer", container_id=container, timeout=20)
    assert cri.status(container).exit_code == 7


@case(28, "containers", "StopContainer kills what does not end in time")
def test_stop_kills_what_does_not_end_in_time(cri: Cri) -> None:
    container = cri.started(f"trap '' TERM; echo ready; {WAIT}")
    cri.logged(container, "ready")
    begun = time.monotonic()
    cri.call("StopContainer", container_id=container, timeout=1)
    assert time.monotonic() - begun >= 0.9
    status = cri.status(container)
    assert (status.state, status.exit_code) == (EXITED, 137)


@case(29, "containers", "StopContainer succeeds again, and for one that has exited")
def test_stop_succeeds_again(cri: Cri) -> None:
    stopped, exited = cri.started(name="one"), cri.started("exit 3", name="two")
    cri.ended(exited)
    for _ in range(2):
        for container in (stopped, exited):
            cri.call("StopContainer", container_id=container, timeout=0)
    assert cri.status(exited).exit_code == 3


@case(30, "containers", "StopContainer of an unknown container succeeds or says NOT_FOUND")
def test_stop_of_an_unknown_container_succeeds_or_says_not_found(cri: Cri) -> None:
    assert cri.code("StopContainer", container_id=UNKNOWN_ID, timeout=0) in {OK, NOT_FOUND}


@case(31, "containers", "RemoveContainer makes a container unknown, and succeeds again")
def test_remove_makes_a_container_unknown_and_succeeds_again(cri: Cri) -> None:
    container = cri.started("exit 0")
    cri.ended(container)
    for _ in range(2):
        cri.call("RemoveContainer", container_id=container)
        assert cri.refused("ContainerStatus", container_id=container).code is NOT_FOUND
    cri.call("RemoveContainer", container_id=UNKNOWN_ID)


@case(32, "containers", "RemoveContainer ends a container that runs")
def test_remove_ends_a_container_that_runs(cri: Cri) -> None:
    container = cri.started()
    cri.call("RemoveContainer", container_id=container)
    assert cri.refused("ContainerStatus", container_id=container).code is NOT_FOUND


@case(33, "containers", "a container that was never started can be removed")
def test_a_container_that_was_never_started_can_be_removed(cri: Cri) -> None:
    container = cri.create(cri.pod())
    cri.call("RemoveContainer", container_id=container)
    assert not cri.call("ListContainers", filter={"id": container}).containers


@case(34, "containers", "a container is started once")
@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_container_is_started_once(cri: Cri, state: str) -> None:
    container = cri.started(WAIT if state == "running" else "exit 0")
    if state == "exited":
        cri.ended(container)
    assert cri.refused("StartContainer", container_id=container).details
    assert cri.status(container).state == (RUNNING if state == "running" else EXITED)


@case(35, "containers", "a second container of the same name and attempt is refused, the next attempt is not")
def test_a_name_and_attempt_is_given_once(cri: Cri) -> None:
    pod = cri.pod()
    first = cri.create(pod)
    cri.refused("CreateContainer", **cri.request(pod))
    assert cri.create(pod, attempt=1) != first


@case(36, "containers", "command and args take the place of the image's as CRI says")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "entry from image"),
        ({"args": ["own"]}, "entry own"),
        ({"command": ["/bin/echo", "mine"]}, "mine"),
        ({"command": ["/bin/echo", "mine"], "args": ["own"]}, "mine own"),
    ],
    ids=["neither", "args", "command", "both"],
)
def test_command_and_args_take_the_place_of_the_images(cri: Cri, given: dict[str, list[str]], expected: str) -> None:
    assert cri.output("", image=images.PERSON, **{"command": [], **given}) == expected


@case(37, "containers", "environment variables come from the request, then from the image")
def test_environment_variables_come_from_the_request_then_the_image(cri: Cri) -> None:
    envs = [{"key": "SHAPE", "value": b"flat"}, {"key": "HARD", "value": "a=b 'c' ünï".encode()}]
    container = cri.started(image=images.PERSON, envs=[*envs, {"key": "EMPTY", "value": b""}])
    assert cri.out(container, 'echo "$COLOUR|$SHAPE|$HARD|$EMPTY|${EMPTY+set}"') == "blue|flat|a=b 'c' ünï||set"


@case(38, "containers", "the working directory comes from the request, else from the image")
@pytest.mark.parametrize(("given", "expected"), [("", "/www"), ("/tmp", "/tmp")], ids=["image", "request"])
def test_the_working_directory(cri: Cri, given: str, expected: str) -> None:
    assert cri.output("/bin/busybox pwd", image=images.PERSON, working_dir=given) == expected


@case(39, "containers", "a container of an absent image is refused")
def test_a_container_of_an_absent_image_is_refused(cri: Cri) -> None:
    pod = cri.pod()
    error = cri.refused("CreateContainer", **cri.request(pod, image="podwire.local/absent:1"))
    assert "podwire.local/absent:1" in error.details or error.code is NOT_FOUND
    assert not cri.call("ListContainers", filter={"pod_sandbox_id": pod.id}).containers


@case(40, "containers", "a command that does not exist fails StartContainer, and the container has exited")
def test_a_command_that_does_not_exist_fails_start(cri: Cri) -> None:
    container = cri.create(cri.pod(), command=["/no/such/command"])
    error = cri.refused("StartContainer", container_id=container)
    assert "/no/such/command" in error.details
    status = cri.status(container)
    assert status.state == EXITED
    assert status.exit_code != 0


@case(41, "containers", "StopContainer sends the stop signal of the image")
def test_stop_sends_the_stop_signal_of_the_image(cri: Cri) -> None:
    script = "trap 'exit 9' USR1; echo ready; while true; do sleep 0.05; done"
    container = cri.started(script, image=images.PERSON)
    cri.logged(container, "ready")
    cri.call("StopContainer", container_id=container, timeout=20)
    assert cri.status(container).exit_code == 9


@case(42, "containers", "a container in a stopped pod cannot be started")
def test_a_container_in_a_stopped_pod_cannot_be_started(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.create(pod)
    cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
    assert cri.refused("StartContainer", container_id=container).details
    assert cri.status(container).state != RUNNING


@case(43, "containers", "one container's end leaves its pod and the other containers alone")
def test_one_containers_end_leaves_the_others_alone(cri: Cri) -> None:
    pod = cri.pod()
    stays, ends = cri.container(pod, name="stays"), cri.container(pod, "exit 1", name="ends")
    before = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status
    cri.ended(ends)
    assert cri.status(stays).state == RUNNING
    assert cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status == before
