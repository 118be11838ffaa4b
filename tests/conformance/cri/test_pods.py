"""Cases 7-23: the life of a pod sandbox. Calls that end something succeed when it has ended already."""

import time

import grpc
import pytest

from cri_shim import schema
from tests.conformance.cri.bench import EXITED, Cri
from tests.conformance.cri.cases import case

READY, NOTREADY = (schema.enum("PodSandboxState")[name] for name in ("SANDBOX_READY", "SANDBOX_NOTREADY"))
UNKNOWN_ID = "0123456789abcdef" * 4
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@case(7, "pods", "a pod is ready once it was run, and has the names it was given")
def test_a_pod_is_ready_once_it_was_run(cri: Cri) -> None:
    pod = cri.pod("named", attempt=3, labels={"tier": "front"}, annotations={"example.org/text": "two\nlines = ünï"})
    status = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status
    assert status.id == pod.id
    assert status.state == READY
    assert status.metadata == pod.config.metadata
    assert dict(status.labels) == dict(pod.config.labels)
    assert dict(status.annotations) == dict(pod.config.annotations)


@case(8, "pods", "every pod has an address of its own")
def test_every_pod_has_an_address_of_its_own(cri: Cri) -> None:
    pods = [cri.pod(name) for name in ("one", "two")]
    addresses = [cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.network.ip for pod in pods]
    assert all(addresses)
    assert len(set(addresses)) == 2


@case(9, "pods", "a pod's address is the one its containers have")
def test_a_pods_address_is_the_one_its_containers_have(cri: Cri) -> None:
    pod, container = cri.resident()
    address = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.network.ip
    assert f"{address}/" in cri.ask("ExecSync", container_id=container, cmd=["ip", "address"]).stdout.decode()


@case(10, "pods", "the time of creation is in nanoseconds, and now")
def test_the_time_of_creation_is_in_nanoseconds_and_now(cri: Cri) -> None:
    before = time.time_ns()
    pod = cri.pod()
    created = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.created_at
    assert before - 10**9 <= created <= time.time_ns() + 10**9


@case(11, "pods", "StopPodSandbox makes a pod not ready, and succeeds again")
def test_stop_makes_a_pod_not_ready_and_succeeds_again(cri: Cri) -> None:
    pod = cri.pod()
    for _ in range(3):
        cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
        assert cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.state == NOTREADY


@case(12, "pods", "RemovePodSandbox makes a pod unknown, and succeeds again")
def test_remove_makes_a_pod_unknown_and_succeeds_again(cri: Cri) -> None:
    pod = cri.pod()
    cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
    for _ in range(3):
        cri.call("RemovePodSandbox", pod_sandbox_id=pod.id)
        assert cri.refused("PodSandboxStatus", pod_sandbox_id=pod.id).code is NOT_FOUND
    assert not cri.call("ListPodSandbox", filter={"id": pod.id}).items


@case(13, "pods", "RemovePodSandbox ends a pod that was not stopped")
def test_remove_of_a_running_pod_ends_it(cri: Cri) -> None:
    """api.proto: running containers of the sandbox are forcibly terminated and removed."""
    pod = cri.pod()
    cri.container(pod)
    cri.call("RemovePodSandbox", pod_sandbox_id=pod.id)
    assert not cri.call("ListPodSandbox", filter={"id": pod.id}).items
    assert not cri.call("ListContainers", filter={"pod_sandbox_id": pod.id}).containers


@case(14, "pods", "RemovePodSandbox of an unknown pod succeeds")
def test_remove_of_an_unknown_pod_succeeds(cri: Cri) -> None:
    cri.call("RemovePodSandbox", pod_sandbox_id=UNKNOWN_ID)


@case(15, "pods", "StopPodSandbox of an unknown pod succeeds or says NOT_FOUND")
def test_stop_of_an_unknown_pod_succeeds_or_says_not_found(cri: Cri) -> None:
    """kubelet takes both for stopped."""
    assert cri.code("StopPodSandbox", pod_sandbox_id=UNKNOWN_ID) in {grpc.StatusCode.OK, NOT_FOUND}


@case(16, "pods", "a second pod of the same name and attempt is refused")
def test_a_second_pod_of_the_same_name_and_attempt_is_refused(cri: Cri) -> None:
    first = cri.pod()
    error = cri.refused("RunPodSandbox", config=first.config)
    assert "reserved" in error.details or error.code is grpc.StatusCode.ALREADY_EXISTS
    assert cri.call("PodSandboxStatus", pod_sandbox_id=first.id).status.state == READY


@case(17, "pods", "the next attempt of a pod runs beside the last one")
def test_the_next_attempt_of_a_pod_runs_beside_the_last_one(cri: Cri) -> None:
    first = cri.pod()
    cri.call("StopPodSandbox", pod_sandbox_id=first.id)
    second = cri.pod(attempt=1)
    states = {
        name: cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status.state
        for name, pod in (("first", first), ("second", second))
    }
    assert states == {"first": NOTREADY, "second": READY}


@case(18, "pods", "a name is free again once its pod was removed")
def test_a_name_is_free_again_once_its_pod_was_removed(cri: Cri) -> None:
    first = cri.pod()
    cri.call("StopPodSandbox", pod_sandbox_id=first.id)
    cri.call("RemovePodSandbox", pod_sandbox_id=first.id)
    assert cri.pod().id != first.id


@case(19, "pods", "a pod that is asked for wrongly is refused and leaves nothing")
@pytest.mark.parametrize("wrong", ["no metadata", "unknown runtime handler", "unknown sysctl"])
def test_a_pod_that_is_asked_for_wrongly_is_refused(cri: Cri, wrong: str) -> None:
    config = cri.pod_config("wrong")
    handler = ""
    match wrong:
        case "no metadata":
            del config["metadata"]
        case "unknown runtime handler":
            handler = "no-such-handler"
        case _:
            config["linux"]["sysctls"] = {"net.no_such_sysctl": "1"}
    error = cri.refused("RunPodSandbox", config=config, runtime_handler=handler)
    assert error.details
    assert not cri.call("ListPodSandbox", filter={"label_selector": {"io.kubernetes.pod.name": "wrong"}}).items


@case(20, "pods", "StopPodSandbox ends the pod's containers")
def test_stop_ends_the_pods_containers(cri: Cri) -> None:
    pod = cri.pod()
    containers = [cri.container(pod, name=name) for name in ("one", "two")]
    cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
    assert [cri.status(container).state for container in containers] == [EXITED, EXITED]
    assert cri.status(containers[0]).exit_code == 137


@case(21, "pods", "RemovePodSandbox removes the pod's containers")
def test_remove_removes_the_pods_containers(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.container(pod, "exit 0")
    cri.ended(container)
    cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
    cri.call("RemovePodSandbox", pod_sandbox_id=pod.id)
    assert cri.refused("ContainerStatus", container_id=container).code is NOT_FOUND


@case(22, "pods", "hostname and resolv.conf are what the pod was given")
def test_hostname_and_resolv_conf_are_what_the_pod_was_given(cri: Cri) -> None:
    dns = {"servers": ["192.0.2.1", "192.0.2.2"], "searches": ["a.example", "b.example"], "options": ["ndots:5"]}
    container = cri.container(cri.pod("host-name", dns_config=dns))
    assert cri.out(container, "/bin/busybox hostname; cat /etc/hostname") == "host-name\nhost-name"
    lines = cri.out(container, "cat /etc/resolv.conf").split("\n")
    assert {"nameserver 192.0.2.1", "nameserver 192.0.2.2"} <= set(lines)
    assert {"search a.example b.example", "options ndots:5"} <= set(lines)


@case(23, "pods", "a pod's sysctls are set in its namespaces")
def test_a_pods_sysctls_are_set_in_its_namespaces(cri: Cri) -> None:
    given = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "40000\t50000"}
    container = cri.container(cri.pod(linux={"sysctls": given}))
    for name, value in given.items():
        assert cri.out(container, f"cat /proc/sys/{name.replace('.', '/')}") == value
