"""Cases 147-152: what lists hold, and what their filters let through."""

from typing import Any

import pytest

from tests.conformance.cri.bench import EXITED, LABEL, RUNNING, Cri, Pod
from tests.conformance.cri.cases import case
from tests.conformance.cri.test_pods import NOTREADY, READY, UNKNOWN_ID


@case(147, "lists", "a listed pod says what its status says")
def test_a_listed_pod_says_what_its_status_says(cri: Cri) -> None:
    pod, _ = cri.resident()
    (listed,) = cri.call("ListPodSandbox", filter={"id": pod.id}).items
    status = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status
    for name in ("id", "metadata", "state", "created_at", "labels", "annotations", "runtime_handler"):
        assert getattr(listed, name) == getattr(status, name), name


@case(148, "lists", "a listed container says what its status says")
def test_a_listed_container_says_what_its_status_says(cri: Cri) -> None:
    pod, container = cri.resident()
    (listed,) = cri.call("ListContainers", filter={"id": container}).containers
    status = cri.status(container)
    for name in ("id", "metadata", "state", "created_at", "labels", "annotations", "image_ref"):
        assert getattr(listed, name) == getattr(status, name), name
    assert listed.pod_sandbox_id == pod.id
    assert listed.image.image


def pods(cri: Cri, **filters: Any) -> set[str]:
    return {each.id for each in cri.call("ListPodSandbox", filter=filters).items}


@case(149, "lists", "pods are found by id, state and labels, and by all of them together")
def test_pods_are_found_by_id_state_and_labels(cri: Cri) -> None:
    ready, stopped = cri.pod("ready", labels={"tier": "front"}), cri.pod("stopped", labels={"tier": "back"})
    cri.call("StopPodSandbox", pod_sandbox_id=stopped.id)
    mine = {LABEL: cri.token}
    assert pods(cri) >= {ready.id, stopped.id}
    assert pods(cri, label_selector=mine) == {ready.id, stopped.id}
    assert pods(cri, id=ready.id) == {ready.id}
    assert pods(cri, label_selector=mine, state={"state": READY}) == {ready.id}
    assert pods(cri, label_selector=mine, state={"state": NOTREADY}) == {stopped.id}
    assert pods(cri, label_selector={**mine, "tier": "back"}) == {stopped.id}
    assert pods(cri, id=ready.id, label_selector={**mine, "tier": "back"}) == set()
    assert pods(cri, id=UNKNOWN_ID) == set()


def containers(cri: Cri, **filters: Any) -> set[str]:
    return {each.id for each in cri.call("ListContainers", filter=filters).containers}


def three_containers(cri: Cri) -> tuple[Pod, str, str, str]:
    """A pod with a running and an exited container, and a running one of another pod."""
    one, other = cri.pod("one"), cri.pod("other")
    runs, exited = cri.container(one, labels={"tier": "front"}), cri.container(one, "exit 0", name="exited")
    cri.ended(exited)
    return one, runs, exited, cri.container(other)


@case(150, "lists", "containers are found by id, state, pod and labels, and by all of them together")
def test_containers_are_found_by_id_state_pod_and_labels(cri: Cri) -> None:
    pod, runs, exited, elsewhere = three_containers(cri)
    mine = {LABEL: cri.token}
    assert containers(cri) >= {runs, exited, elsewhere}
    assert containers(cri, label_selector=mine) == {runs, exited, elsewhere}
    assert containers(cri, id=runs) == {runs}
    assert containers(cri, pod_sandbox_id=pod.id) == {runs, exited}
    assert containers(cri, label_selector=mine, state={"state": RUNNING}) == {runs, elsewhere}
    assert containers(cri, pod_sandbox_id=pod.id, state={"state": EXITED}) == {exited}
    assert containers(cri, label_selector={**mine, "tier": "front"}) == {runs}
    assert containers(cri, id=elsewhere, pod_sandbox_id=pod.id) == set()


@case(151, "lists", "a selector needs all of its labels")
def test_a_selector_needs_all_of_its_labels(cri: Cri) -> None:
    pod, container = cri.resident()
    both = {LABEL: cri.endpoint.token, "role": "resident"}
    assert containers(cri, label_selector=both) == {container}
    assert containers(cri, label_selector={**both, "role": "another"}) == set()
    assert containers(cri, label_selector={**both, "absent": ""}) == set()
    assert pods(cri, label_selector={LABEL: cri.endpoint.token, "stays": "yes"}) == {pod.id}


# Streaming method -> the unary one, and the lists in both answers.
STREAMS = {
    "StreamPodSandboxes": ("ListPodSandbox", "pod_sandboxes", "items"),
    "StreamContainers": ("ListContainers", "containers", "containers"),
    "StreamImages": ("ListImages", "images", "images"),
}


@case(152, "lists", "a streamed list has what the list has")
@pytest.mark.parametrize("method", STREAMS)
def test_a_streamed_list_has_what_the_list_has(cri: Cri, method: str) -> None:
    cri.resident()
    unary, streamed, listed = STREAMS[method]
    # Pods of others may come and go meanwhile.
    filters = {} if unary == "ListImages" else {"filter": {"label_selector": {LABEL: cri.endpoint.token}}}
    with cri.client.stream(method, 30, **filters) as parts:
        found = {each.id for part in parts for each in getattr(part, streamed)}
    assert found == {each.id for each in getattr(cri.ask(unary, **filters), listed)}
