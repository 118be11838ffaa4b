"""Cases 44-55: which namespaces a container shares with whom, and what the pod's first process is there for."""

import json

from tests.conformance.cri.bench import MODE, Cri, Pod
from tests.conformance.cri.cases import case
from tests.lab.waiting import wait_until

SHARED = ("net", "ipc", "uts")


def inside(cri: Cri, container: str, kind: str) -> str:
    """A namespace of a container, as the container itself sees it; compared by its kind only."""
    return cri.out(container, f"/bin/busybox readlink /proc/self/ns/{kind}")


def pause_pid(cri: Cri, pod: Pod) -> int:
    """The pod's first process, which is no part of CRI: from the verbose status of runtimes that tell it."""
    info = cri.ask("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True).info
    pid = json.loads(info["info"]).get("pid", 0) if "info" in info else 0
    cri.needs(pid, "the verbose PodSandboxStatus names no process")
    return int(pid)


@case(44, "namespaces", "containers of a pod share its network, IPC and UTS namespaces")
def test_containers_of_a_pod_share_its_namespaces(cri: Cri) -> None:
    pod = cri.pod()
    containers = [cri.container(pod, name=name) for name in ("one", "two")]
    for kind in SHARED:
        found = {inside(cri, container, kind) for container in containers}
        assert len(found) == 1, kind
        assert found != {cri.site.own_namespace(kind)}, kind


@case(45, "namespaces", "the pod's first process holds network, IPC and UTS, while containers come and go")
def test_the_pods_first_process_holds_its_namespaces(cri: Cri) -> None:
    pod = cri.pod()
    pid = pause_pid(cri, pod)
    held = {kind: cri.site.namespace(pid, kind) for kind in SHARED}
    for attempt in range(2):
        container = cri.container(pod, attempt=attempt)
        assert {kind: inside(cri, container, kind) for kind in SHARED} == held
        cri.call("StopContainer", container_id=container, timeout=0)
    assert {kind: cri.site.namespace(pid, kind) for kind in SHARED} == held


@case(46, "namespaces", "two pods share no namespace")
def test_two_pods_share_no_namespace(cri: Cri) -> None:
    containers = [cri.container(cri.pod(name)) for name in ("one", "two")]
    for kind in (*SHARED, "pid", "mnt"):
        assert len({inside(cri, container, kind) for container in containers}) == 2, kind


@case(47, "namespaces", "a container has processes of its own, and its command is the first")
def test_a_container_has_processes_of_its_own(cri: Cri) -> None:
    pod = cri.pod()
    one, two = (cri.container(pod, name=name) for name in ("one", "two"))
    assert inside(cri, one, "pid") != inside(cri, two, "pid")
    assert cri.out(one, "cat /proc/1/cmdline | /bin/busybox tr '\\0' ' '") == "sleep 3600 "


@case(48, "namespaces", "with a shared PID namespace the pod's first process is process 1 of all its containers")
def test_a_shared_pid_namespace_begins_with_the_pods_first_process(cri: Cri) -> None:
    pod = cri.pod(namespaces={"pid": MODE["POD"]})
    one, two = cri.container(pod, name="one"), cri.container(pod, "exec sleep 3601", name="two")
    assert inside(cri, one, "pid") == inside(cri, two, "pid") == cri.site.namespace(pause_pid(cri, pod), "pid")
    assert "sleep" not in cri.out(one, "cat /proc/1/cmdline | /bin/busybox tr '\\0' ' '")
    assert "sleep 3601" in cri.ask("ExecSync", container_id=one, cmd=["ps"]).stdout.decode()


@case(49, "namespaces", "the pod's first process reaps orphans of a shared PID namespace")
def test_the_pods_first_process_reaps_orphans(cri: Cri) -> None:
    pod = cri.pod(namespaces={"pid": MODE["POD"]})
    # The middle shell ends at once, so its child's new parent is process 1 of the namespace.
    container = cri.container(pod, "sh -c 'sleep 0.3 & echo $!' > /tmp/orphan; exec sleep 3600")
    orphan = wait_until(
        lambda: cri.ask("ExecSync", container_id=container, cmd=["cat", "/tmp/orphan"]).stdout.decode().strip(),
        10,
        "the orphan's number",
    )
    gone = ["test", "!", "-e", f"/proc/{orphan}"]
    wait_until(
        lambda: cri.ask("ExecSync", container_id=container, cmd=gone).exit_code == 0, 10, f"{orphan} to be reaped"
    )


@case(50, "namespaces", "a pod of the node's network is in it, under the node's address")
def test_a_pod_of_the_nodes_network_is_in_it(cri: Cri) -> None:
    pod = cri.pod(namespaces={"network": MODE["NODE"]}, hostname="")
    container = cri.container(pod)
    assert inside(cri, container, "net") == cri.site.own_namespace("net")
    status = cri.call("PodSandboxStatus", pod_sandbox_id=pod.id).status
    assert status.linux.namespaces.options.network == MODE["NODE"]


@case(51, "namespaces", "a pod of the node's processes sees them")
def test_a_pod_of_the_nodes_processes_sees_them(cri: Cri) -> None:
    container = cri.container(cri.pod(namespaces={"pid": MODE["NODE"]}))
    assert inside(cri, container, "pid") == cri.site.own_namespace("pid")


@case(52, "namespaces", "a pod of the node's IPC shares it")
def test_a_pod_of_the_nodes_ipc_shares_it(cri: Cri) -> None:
    container = cri.container(cri.pod(namespaces={"ipc": MODE["NODE"]}))
    assert inside(cri, container, "ipc") == cri.site.own_namespace("ipc")


@case(53, "namespaces", "a container can be put into another's PID namespace, as for debugging")
def test_a_container_can_be_put_into_anothers_pid_namespace(cri: Cri) -> None:
    pod = cri.pod()
    target = cri.container(pod, "exec sleep 3601", name="target")
    namespaces = {**pod.namespaces, "pid": MODE["TARGET"], "target_id": target}
    debugger = cri.container(pod, name="debugger", security={"namespace_options": namespaces})
    assert inside(cri, debugger, "pid") == inside(cri, target, "pid")
    assert "sleep 3601" in cri.out(debugger, "cat /proc/1/cmdline | /bin/busybox tr '\\0' ' '")


@case(54, "namespaces", "containers of a pod share /dev/shm, and two pods do not")
def test_containers_of_a_pod_share_dev_shm(cri: Cri) -> None:
    pod = cri.pod()
    one, two = (cri.container(pod, name=name) for name in ("one", "two"))
    cri.out(one, "echo shared > /dev/shm/note")
    assert cri.out(two, "cat /dev/shm/note") == "shared"
    other = cri.container(cri.pod("other"))
    assert cri.shell(other, "cat /dev/shm/note").code != 0


@case(55, "namespaces", "a pod with a user namespace is another user on the node")
def test_a_pod_with_a_user_namespace_is_another_user_on_the_node(cri: Cri) -> None:
    handlers = [each for each in cri.endpoint.status.runtime_handlers if not each.name]
    cri.needs(handlers and handlers[0].features.user_namespaces, "no user namespaces in the runtime handler's features")
    mapping = [{"host_id": 1_000_000, "container_id": 0, "length": 65536}]
    userns = {"mode": MODE["POD"], "uids": mapping, "gids": mapping}
    container = cri.container(cri.pod(namespaces={"userns_options": userns}))
    assert cri.out(container, "/bin/busybox id -u; cat /proc/self/uid_map").split() == ["0", "0", "1000000", "65536"]
