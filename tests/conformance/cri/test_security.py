"""Cases 56-73: whom a container runs as, and what it may do."""

from pathlib import Path
from typing import Any

import pytest

from cri_shim import schema
from tests.conformance.cri.bench import Cri
from tests.conformance.cri.cases import case
from tests.lab import images

ID = "/bin/busybox id"
POLICY = schema.enum("SupplementalGroupsPolicy")
PROFILE = {"RuntimeDefault": 0, "Unconfined": 1, "Localhost": 2}
# Bits of linux/capability.h.
CAPABILITY = {"CHOWN": 0, "KILL": 5, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "SYS_ADMIN": 21}
NUMBER = "value"


def capabilities(cri: Cri, container: str) -> int:
    """The effective capabilities of a container's first process, as a mask."""
    return int(proc_status(cri, container, "CapEff"), 16)


def proc_status(cri: Cri, container: str, key: str) -> str:
    """One line of /proc/1/status."""
    for line in cri.out(container, f"/bin/busybox grep ^{key}: /proc/1/status").splitlines():
        return line.split(":", 1)[1].strip()
    raise AssertionError(f"/proc/1/status has no {key}")


def has(mask: int, name: str) -> bool:
    return bool(mask >> CAPABILITY[name] & 1)


@case(56, "security", "a container runs as the user and group it was given")
def test_a_container_runs_as_the_user_and_group_it_was_given(cri: Cri) -> None:
    user = {"run_as_user": {NUMBER: 1234}, "run_as_group": {NUMBER: 2345}}
    assert cri.output(f"{ID} -u; {ID} -g", security=user) == "1234\n2345"


@case(57, "security", "a group without a user is refused")
def test_a_group_without_a_user_is_refused(cri: Cri) -> None:
    """api.proto: run_as_group only with run_as_user or run_as_username; otherwise the runtime MUST error."""
    pod = cri.pod()
    assert cri.refused("CreateContainer", **cri.request(pod, security={"run_as_group": {NUMBER: 2345}})).details


@case(58, "security", "a user name is looked up in the image")
def test_a_user_name_is_looked_up_in_the_image(cri: Cri) -> None:
    told = cri.output(f"{ID} -u; {ID} -g", image=images.PERSON, security={"run_as_username": "worker"})
    assert told == "1000\n3000"
    pod = cri.pod("other")
    request = cri.request(pod, image=images.PERSON, security={"run_as_username": "nobody-knows"})
    assert cri.refused("CreateContainer", **request).details


@case(59, "security", "without a user in the request the image's runs")
def test_without_a_user_in_the_request_the_images_runs(cri: Cri) -> None:
    assert cri.output(f"{ID} -u", image=images.PERSON) == "1000"


@case(60, "security", "supplemental groups are added to those of the image")
@pytest.mark.parametrize("user", [{"run_as_user": {NUMBER: 1000}}, {"run_as_username": "worker"}], ids=["id", "name"])
def test_supplemental_groups_are_added_to_those_of_the_image(cri: Cri, user: dict[str, Any]) -> None:
    """kubelet always names the user: the one of the pod, else the one that ImageStatus told it."""
    told = cri.output(f"{ID} -G", image=images.PERSON, security={"supplemental_groups": [777, 888], **user})
    assert set(told.split()) == {"3000", "50000", "777", "888"}


@case(61, "security", "supplemental groups by the strict policy are those of the request alone")
def test_supplemental_groups_by_the_strict_policy(cri: Cri) -> None:
    features = cri.endpoint.status.features
    cri.needs(features.supplemental_groups_policy, "Status does not claim supplemental_groups_policy (CRI 0.31)")
    strict = {"supplemental_groups": [777], "supplemental_groups_policy": POLICY["Strict"]}
    assert set(cri.output(f"{ID} -G", image=images.PERSON, security=strict).split()) == {"3000", "777"}


@case(62, "security", "a container has the default capabilities, and not those of an administrator")
def test_a_container_has_the_default_capabilities(cri: Cri) -> None:
    _, container = cri.resident()
    mask = capabilities(cri, container)
    assert has(mask, "CHOWN")
    assert has(mask, "NET_BIND_SERVICE")
    assert not has(mask, "NET_ADMIN")
    assert not has(mask, "SYS_ADMIN")


@case(63, "security", "capabilities are added and dropped, ALL of them too")
@pytest.mark.parametrize(
    ("given", "present", "absent"),
    [
        ({"add_capabilities": ["NET_ADMIN"]}, ["NET_ADMIN", "CHOWN"], ["SYS_ADMIN"]),
        ({"drop_capabilities": ["CHOWN"]}, ["KILL"], ["CHOWN"]),
        ({"drop_capabilities": ["ALL"]}, [], list(CAPABILITY)),
        ({"drop_capabilities": ["ALL"], "add_capabilities": ["KILL"]}, ["KILL"], ["CHOWN", "NET_ADMIN"]),
        ({"add_capabilities": ["ALL"]}, list(CAPABILITY), []),
    ],
    ids=["add", "drop", "drop ALL", "drop ALL and add one", "add ALL"],
)
def test_capabilities_are_added_and_dropped(
    cri: Cri, given: dict[str, list[str]], present: list[str], absent: list[str]
) -> None:
    mask = capabilities(cri, cri.started(security={"capabilities": given}))
    assert {name: has(mask, name) for name in (*present, *absent)} == {
        **dict.fromkeys(present, True),
        **dict.fromkeys(absent, False),
    }


@case(64, "security", "a root filesystem is read-only when that is asked, its mounts are not")
def test_a_root_filesystem_is_read_only_when_that_is_asked(cri: Cri) -> None:
    folder = cri.folder("data")
    mounts = [{"container_path": "/data", "host_path": str(folder)}]
    container = cri.started(security={"readonly_rootfs": True}, mounts=mounts)
    written = cri.shell(container, "echo x > /tmp/file")
    assert written.code != 0
    assert "Read-only file system" in written.err
    assert cri.out(container, "echo x > /data/file && cat /data/file") == "x"


@case(65, "security", "a root filesystem is a container's own")
def test_a_root_filesystem_is_a_containers_own(cri: Cri) -> None:
    one, two = (cri.started(name=name) for name in ("one", "two"))
    cri.out(one, "echo x > /tmp/file")
    assert cri.shell(two, "cat /tmp/file").code != 0


@case(66, "security", "no_new_privs is what was asked")
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not asked"])
def test_no_new_privs_is_what_was_asked(cri: Cri, asked: bool) -> None:
    container = cri.started(security={"no_new_privs": asked})
    assert proc_status(cri, container, "NoNewPrivs") == str(int(asked))


@case(67, "security", "a privileged container has every capability, no seccomp, and may write to /sys")
def test_a_privileged_container_may_do_everything(cri: Cri) -> None:
    pod = cri.pod(security={"privileged": True})
    container = cri.container(pod, security={"privileged": True})
    mask = capabilities(cri, container)
    assert all(has(mask, name) for name in CAPABILITY)
    assert proc_status(cri, container, "Seccomp") == "0"
    assert "rw" in options(cri, container, "/sys")
    assert "ro" in options(cri, cri.container(pod, name="plain"), "/sys")


def options(cri: Cri, container: str, place: str) -> list[str]:
    """The mount options of one place in a container; the last mount there counts."""
    text: str = cri.ask("ExecSync", container_id=container, cmd=["cat", "/proc/1/mountinfo"]).stdout.decode()
    found = [line.split()[5].split(",") for line in text.splitlines() if line.split()[4] == place]
    assert found, f"nothing is mounted at {place}"
    return found[-1]


@case(68, "security", "a privileged container in a pod that is not is refused")
def test_a_privileged_container_in_a_pod_that_is_not_is_refused(cri: Cri) -> None:
    pod = cri.pod()
    error = cri.refused("CreateContainer", **cri.request(pod, security={"privileged": True}))
    assert "privileged" in error.details


@case(69, "security", "masked paths cannot be read")
def test_masked_paths_cannot_be_read(cri: Cri) -> None:
    container = cri.started(security={"masked_paths": ["/proc/version", "/proc/fs"]})
    assert cri.out(container, "cat /proc/version; ls /proc/fs") == ""
    plain = cri.started(name="plain")
    assert cri.ask("ExecSync", container_id=plain, cmd=["cat", "/proc/version"]).stdout


@case(70, "security", "read-only paths cannot be written")
def test_readonly_paths_cannot_be_written(cri: Cri) -> None:
    # The domain name belongs to the pod's UTS namespace.
    write = "echo podwire > /proc/sys/kernel/domainname"
    container = cri.started(security={"readonly_paths": ["/proc/sys"]})
    denied = cri.shell(container, write)
    assert denied.code != 0
    assert "Read-only file system" in denied.err
    assert "ro" in options(cri, container, "/proc/sys")


@case(71, "security", "a device is there, with the permissions it was given")
def test_a_device_is_there_with_its_permissions(cri: Cri) -> None:
    # Not one of the devices that every container has; to open it for writing needs no capability.
    cri.needs(cri.site.run(["test", "-c", "/dev/kmsg"], check=False).returncode == 0, "the node has no /dev/kmsg")
    given = [
        {"container_path": f"/dev/{name}", "host_path": "/dev/kmsg", "permissions": permissions}
        for name, permissions in (("whole", "rwm"), ("read", "r"))
    ]
    whole, read = (cri.started(name=each["container_path"][5:], devices=[each]) for each in given)
    assert cri.shell(whole, ": > /dev/whole").code == 0
    denied = cri.shell(read, ": > /dev/read")
    assert denied.code != 0
    assert "Operation not permitted" in denied.err
    assert "such file" in cri.shell(read, "cat /dev/whole").err


@case(72, "security", "an AppArmor profile that is not loaded is refused")
def test_an_apparmor_profile_that_is_not_loaded_is_refused(cri: Cri) -> None:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    cri.needs(enabled.exists() and enabled.read_text().startswith("Y"), "the kernel has no AppArmor")
    profile = {"profile_type": PROFILE["Localhost"], "localhost_ref": "no-such-profile"}
    container = cri.refused("CreateContainer", **cri.request(cri.pod(), security={"apparmor": profile}))
    assert "apparmor" in container.details.lower()


@case(73, "security", "a container has the SELinux label it was given")
def test_a_container_has_the_selinux_label_it_was_given(cri: Cri) -> None:
    cri.needs(Path("/sys/fs/selinux/enforce").exists(), "the kernel has no SELinux")
    label = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0:c4,c5"}
    container = cri.started(security={"selinux_options": label})
    assert cri.out(container, "cat /proc/1/attr/current").rstrip("\0").endswith("s0:c4,c5")
