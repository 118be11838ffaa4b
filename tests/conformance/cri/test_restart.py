"""Cases 153-155: the runtime is restarted, and its pods live on."""

import pytest

from tests.conformance.cri.bench import EXITED, RUNNING, Cri
from tests.conformance.cri.cases import case
from tests.conformance.cri.test_pods import READY

# Restarts hit the reference too where it is the same runtime, and take seconds.
pytestmark = pytest.mark.alone


def restart(cri: Cri) -> None:
    cri.needs(cri.site.restart, "no --restart-command for this endpoint")
    assert cri.site.restart is not None
    cri.site.restart()


@case(153, "restart", "pods and containers have the same status after a restart as before")
def test_pods_and_containers_have_the_same_status_after_a_restart(cri: Cri) -> None:
    pod = cri.pod()
    runs, exited = cri.container(pod, name="runs"), cri.container(pod, "exit 3", name="exited")
    cri.ended(exited)
    created = cri.create(pod, name="created")
    asked = [("PodSandboxStatus", {"pod_sandbox_id": pod.id})]
    asked += [("ContainerStatus", {"container_id": each}) for each in (runs, exited, created)]
    before = [cri.call(method, **fields).status for method, fields in asked]
    restart(cri)
    assert [cri.call(method, **fields).status for method, fields in asked] == before
    assert before[0].state == READY


@case(154, "restart", "what ran before a restart is executed in, stopped and removed after it")
def test_what_ran_before_is_executed_in_and_stopped_after(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.container(pod, "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done")
    cri.logged(container, "ready")
    restart(cri)
    assert cri.shell(container, "exit 4").code == 4
    cri.call("StopContainer", container_id=container, timeout=20)
    assert (cri.status(container).state, cri.status(container).exit_code) == (EXITED, 7)


@case(155, "restart", "an end during the outage is known after it, and the log went on meanwhile")
def test_an_end_during_the_outage_is_known_after_it(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.container(pod, "echo before; until [ -e /tmp/go ]; do sleep 0.05; done; echo after; exit 6")
    cri.logged(container, "before")
    assert cri.status(container).state == RUNNING
    # It ends while the runtime is away, or soon after: kubelet must be told the same.
    cri.ask("ExecSync", container_id=container, cmd=["/bin/sh", "-c", "(sleep 0.3; echo > /tmp/go) >/dev/null 2>&1 &"])
    restart(cri)
    assert cri.ended(container).exit_code == 6
