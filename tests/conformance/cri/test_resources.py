"""Cases 131-140: what a container may use, at its start and later."""

from typing import Any

import pytest

from tests.conformance.cri.bench import EXITED, Cri
from tests.conformance.cri.cases import case
from tests.lab.waiting import wait_until

MIB = 1 << 20
# The file of a limit in a container: cgroup v2, then v1.
FILES = {
    "memory": ("memory.max", "memory/memory.limit_in_bytes"),
    "shares": ("cpu.weight", "cpu/cpu.shares"),
    "quota": ("cpu.max", "cpu/cpu.cfs_quota_us"),
    "cpus": ("cpuset.cpus", "cpuset/cpuset.cpus"),
}


def limit(cri: Cri, container: str, name: str) -> str:
    """A limit as the kernel has it; for a weight of cgroup v2 the shares that make it are known by its order only."""
    second, first = FILES[name]
    ran = cri.shell(container, f"cat /sys/fs/cgroup/{second} 2>/dev/null || cat /sys/fs/cgroup/{first}")
    cri.needs(ran.code == 0, f"the container sees neither {second} nor {first} in /sys/fs/cgroup")
    return ran.out.split()[0]


@case(131, "resources", "memory and processor limits are those of the request")
def test_limits_are_those_of_the_request(cri: Cri) -> None:
    limits = {"memory_limit_in_bytes": 64 * MIB, "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512}
    container = cri.started(resources=limits)
    assert limit(cri, container, "memory") == str(64 * MIB)
    assert limit(cri, container, "quota") == "50000"
    # 512 shares are weight 20 by the formula of runc before 1.3, and 59 since.
    assert limit(cri, container, "shares") in {"512", "20", "59"}


@case(132, "resources", "a container may be bound to processors")
def test_a_container_may_be_bound_to_processors(cri: Cri) -> None:
    container = cri.started(resources={"cpuset_cpus": "0"})
    assert limit(cri, container, "cpus") == "0"


@case(133, "resources", "UpdateContainerResources changes the limits of a container that runs")
def test_update_changes_the_limits_of_a_container_that_runs(cri: Cri) -> None:
    container = cri.started(resources={"memory_limit_in_bytes": 64 * MIB, "cpu_period": 100_000, "cpu_quota": 50_000})
    update = {"memory_limit_in_bytes": 96 * MIB, "cpu_period": 100_000, "cpu_quota": 25_000}
    cri.call("UpdateContainerResources", container_id=container, linux=update)
    assert limit(cri, container, "memory") == str(96 * MIB)
    assert limit(cri, container, "quota") == "25000"


@case(134, "resources", "an update leaves alone what it does not name")
def test_an_update_leaves_alone_what_it_does_not_name(cri: Cri) -> None:
    container = cri.started(resources={"memory_limit_in_bytes": 64 * MIB, "cpu_shares": 512})
    before = limit(cri, container, "shares")
    cri.call("UpdateContainerResources", container_id=container, linux={"memory_limit_in_bytes": 80 * MIB})
    assert limit(cri, container, "shares") == before
    assert limit(cri, container, "memory") == str(80 * MIB)


@case(135, "resources", "ContainerStatus has the limits, and the new ones after an update")
def test_status_has_the_limits(cri: Cri) -> None:
    container = cri.started(resources={"memory_limit_in_bytes": 64 * MIB})
    status = cri.status(container)
    cri.needs(status.HasField("resources"), "ContainerStatus has no resources (CRI before 0.25)")
    assert status.resources.linux.memory_limit_in_bytes == 64 * MIB
    cri.call("UpdateContainerResources", container_id=container, linux={"memory_limit_in_bytes": 80 * MIB})
    assert cri.status(container).resources.linux.memory_limit_in_bytes == 80 * MIB


@case(136, "resources", "a container that was created is updated before it starts")
def test_a_container_that_was_created_is_updated(cri: Cri) -> None:
    container = cri.create(cri.pod(), resources={"memory_limit_in_bytes": 64 * MIB})
    cri.call("UpdateContainerResources", container_id=container, linux={"memory_limit_in_bytes": 80 * MIB})
    cri.call("StartContainer", container_id=container)
    assert limit(cri, container, "memory") == str(80 * MIB)


@case(137, "resources", "what uses more memory than it may is killed, and the status says OOMKilled")
def test_what_uses_more_memory_than_it_may_is_killed(cri: Cri) -> None:
    # A line without an end, which tail keeps in memory.
    hungry = ["/bin/busybox", "tail", "/dev/zero"]
    container = cri.started(command=hungry, resources={"memory_limit_in_bytes": 32 * MIB})
    ended: dict[str, Any] = {}

    def killed() -> bool:
        ended["status"] = cri.ask("ContainerStatus", container_id=container).status
        # The kernel's notice of it may arrive after the end of the process.
        return bool(ended["status"].state == EXITED and ended["status"].reason == "OOMKilled")

    wait_until(killed, 30, "the container to be killed for its memory", hint=lambda: str(ended["status"]))
    assert cri.status(container).exit_code == 137


@case(138, "resources", "the kill of a process beside the first leaves the container running")
def test_the_kill_of_another_process_leaves_the_container_running(cri: Cri) -> None:
    container = cri.started(resources={"memory_limit_in_bytes": 32 * MIB})
    assert cri.execute(container, "/bin/busybox", "tail", "/dev/zero").code == 137
    grouped = cri.site.run(["test", "-e", "/sys/fs/cgroup/cgroup.controllers"], check=False).returncode == 0
    cri.needs(not grouped, "cgroup v2 may be set to kill a container as a whole (memory.oom.group)")
    assert cri.out(container, "echo alive") == "alive"


@case(139, "resources", "the out-of-memory score is the one of the request, as far as the node allows")
@pytest.mark.parametrize("score", [0, 1000])
def test_the_out_of_memory_score(cri: Cri, score: int) -> None:
    container = cri.started(resources={"oom_score_adj": score})
    own = int(cri.site.run(["cat", "/proc/self/oom_score_adj"]).stdout)
    # A runtime that may not lower it (restrict_oom_score_adj) gives its own.
    assert int(cri.out(container, "cat /proc/1/oom_score_adj")) in {score, max(score, own)}


@case(140, "resources", "UpdatePodSandboxResources is taken for a pod that runs")
def test_update_pod_sandbox_resources_is_taken(cri: Cri) -> None:
    pod = cri.pod()
    cri.call("UpdatePodSandboxResources", pod_sandbox_id=pod.id, resources={"memory_limit_in_bytes": 256 * MIB})
