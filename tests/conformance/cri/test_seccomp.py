"""Cases 74-77: the system calls a container may make."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case
from tests.conformance.cri.test_security import PROFILE, proc_status

FILTERED, OFF = "2", "0"
# Everything but the making of folders.
NO_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}


@pytest.fixture(autouse=True)
def _kernel() -> None:
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        pytest.skip("the kernel has no seccomp")


def confined(cri: Cri, **profile: Any) -> str:
    return cri.started(security={"seccomp": profile})


@case(74, "seccomp", "the runtime's default profile filters, and ordinary work goes on")
def test_the_default_profile_filters(cri: Cri) -> None:
    container = confined(cri, profile_type=PROFILE["RuntimeDefault"])
    assert proc_status(cri, container, "Seccomp") == FILTERED
    assert cri.out(container, "mkdir /tmp/x 2>/dev/null || /bin/busybox mkdir /tmp/x; ls /tmp") == "x"
    # unshare(2) of a user namespace needs no capability, so that only a filter can refuse it.
    assert cri.shell(container, "/bin/busybox unshare --user true").code != 0


@case(75, "seccomp", "an unconfined container is not filtered")
def test_an_unconfined_container_is_not_filtered(cri: Cri) -> None:
    assert proc_status(cri, confined(cri, profile_type=PROFILE["Unconfined"]), "Seccomp") == OFF


@case(76, "seccomp", "a profile of the node's disk is applied")
def test_a_profile_of_the_nodes_disk_is_applied(cri: Cri) -> None:
    file = cri.folder("profiles") / "no-mkdir.json"
    file.write_text(json.dumps(NO_MKDIR))
    container = confined(cri, profile_type=PROFILE["Localhost"], localhost_ref=str(file))
    assert proc_status(cri, container, "Seccomp") == FILTERED
    denied = cri.shell(container, "/bin/busybox mkdir /tmp/x")
    assert denied.code != 0
    assert "Operation not permitted" in denied.err
    assert cri.out(container, "echo x > /tmp/file && cat /tmp/file") == "x"


@case(77, "seccomp", "a profile that is not on the node's disk is refused")
def test_a_profile_that_is_not_on_the_nodes_disk_is_refused(cri: Cri) -> None:
    pod = cri.pod()
    profile = {"profile_type": PROFILE["Localhost"], "localhost_ref": str(cri.scratch / "absent.json")}
    error = cri.refused("CreateContainer", **cri.request(pod, security={"seccomp": profile}))
    assert "absent.json" in error.details
