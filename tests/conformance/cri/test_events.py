"""Cases 118-120: GetContainerEvents."""

from collections.abc import Iterator

from cri_shim import schema
from cri_shim.schema import RuntimeMessage
from tests.conformance.cri.bench import EXITED, Cri
from tests.conformance.cri.cases import case

CREATED, STARTED, STOPPED, DELETED = range(4)
NAMES = {number: name for name, number in schema.enum("ContainerEventType").items()}


def until(events: Iterator[RuntimeMessage], of: set[str], last: tuple[str, int]) -> list[RuntimeMessage]:
    """The events of these ids, up to the last one that is waited for; the stream's own time bounds the wait."""
    found = []
    for event in events:
        if event.container_id in of:
            found.append(event)
        if (event.container_id, event.container_event_type) == last:
            return found
    raise AssertionError(f"the stream ended before {NAMES[last[1]]} of {last[0][:12]}: {found}")


@case(118, "events", "a container's life is told in its order, with the pod's status and its own")
def test_a_containers_life_is_told_in_its_order(cri: Cri) -> None:
    with cri.client.stream("GetContainerEvents", 60) as events:
        pod = cri.pod()
        container = cri.container(pod, "exit 5")
        cri.ended(container)
        first = until(events, {container}, (container, STOPPED))
        cri.call("RemoveContainer", container_id=container)
        told = [*first, *until(events, {container}, (container, DELETED))]
    assert [each.container_event_type for each in told] == [CREATED, STARTED, STOPPED, DELETED]
    stopped = told[2]
    assert stopped.pod_sandbox_status.id == pod.id
    assert stopped.pod_sandbox_status.metadata.name == "pod"
    own = [each for each in stopped.containers_statuses if each.id == container]
    assert [(each.state, each.exit_code) for each in own] == [(EXITED, 5)]
    assert all(each.created_at > 0 for each in told)


@case(119, "events", "a pod's life is told under its own id")
def test_a_pods_life_is_told_under_its_own_id(cri: Cri) -> None:
    with cri.client.stream("GetContainerEvents", 60) as events:
        pod = cri.pod()
        cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
        cri.call("RemovePodSandbox", pod_sandbox_id=pod.id)
        told = until(events, {pod.id}, (pod.id, DELETED))
    kinds = [each.container_event_type for each in told]
    assert kinds == sorted(kinds)
    assert {STARTED, STOPPED, DELETED} <= set(kinds)


@case(120, "events", "a subscriber that is gone keeps nobody from ending")
def test_a_subscriber_that_is_gone_keeps_nobody_from_ending(cri: Cri) -> None:
    with cri.client.stream("GetContainerEvents", 60) as events:
        container = cri.started()
        until(events, {container}, (container, STARTED))
    for number in range(3):
        assert cri.ended(cri.started("exit 0", name=f"short-{number}")).exit_code == 0
