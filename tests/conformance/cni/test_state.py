"""Cases 61-64: state that is broken, a disk that is full, and a reboot.

What is never allowed is to give an address out that a living pod has; a refusal in clear words is.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.cni import site
from tests.conformance.cni.cases import case
from tests.conformance.cni.site import Site
from tests.conformance.cni.workbench import Cni

POOL = "10.88.1.0/28"


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _garbage(file: Path) -> None:
    file.write_bytes(b"\xff\x00{[garbage\n" * 3)


def _other_schema(file: Path) -> None:
    file.write_text(json.dumps({"schema": 999, "version": "99.0", "entries": []}))


BREAKS: dict[str, Callable[[Path], None]] = {
    "empty": _empty,
    "cut": _cut,
    "garbage": _garbage,
    "newer schema": _other_schema,
}


@case(61, "X", "state_broken")
@pytest.mark.parametrize("how", BREAKS)
def test_broken_state_never_leads_to_an_address_given_twice(cni: Cni, how: str) -> None:
    """Every file of the state is broken, as after a crash on a file system that keeps names and loses contents."""
    cni.subject.need_state()
    cni.with_pool(POOL)
    state = cni.subject.profile.state
    pods = cni.pods(3)
    living = {cni.add(f"abc{number}", pod).address for number, pod in enumerate(pods)}
    for name in cni.site.files(state.folder, state.locks):
        file = cni.site.path(f"{state.folder}/{name}")
        if file.is_file() and not file.is_symlink():
            BREAKS[how](file)
    for number, pod in enumerate(cni.pods(14)):
        answer = cni.add(f"more{number}", pod)
        if not answer.succeeded:
            answer.refused()
            break
        assert answer.address not in living, f"{answer.address} belongs to a living pod"
        living.add(answer.address)
    for number, pod in enumerate(pods):
        cni.delete(f"abc{number}", pod).pure()
        assert "eth0" not in site.links(pod), "DEL left the interface"


@case(62, "X", "enospc_erofs")
@pytest.mark.parametrize("what", ["full", "no inodes", "read-only"])
def test_add_fails_cleanly_where_the_state_cannot_be_written(cni: Cni, what: str) -> None:
    cni.subject.need_state()
    cni.with_pool(POOL)
    folder = cni.subject.profile.state.folder
    links = set(cni.site.links())
    options = {"full": "size=4k", "no inodes": "nr_inodes=1", "read-only": "ro"}[what]
    cni.site.space.run(["mkdir", "-p", folder])
    cni.site.space.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder])
    if what == "full":
        cni.site.space.run(["sh", "-c", f"yes > {folder}/ballast"], check=False)
    pod = cni.pod()
    cni.add("abc", pod).refused()
    cni.delete("abc", pod).pure()
    assert set(site.links(pod)) == {"lo"}
    assert set(cni.site.links()) - links <= cni.shared_links
    cni.site.space.run(["umount", folder])
    cni.add("abc", pod).ok()
    cni.delete("abc", pod).ok()


@case(62, "X", "enospc_erofs")
def test_del_frees_a_pod_on_a_full_disk(cni: Cni) -> None:
    """To delete must be possible when nothing can be written: it is what makes room."""
    cni.subject.need_state()
    cni.with_pool(POOL)
    folder = cni.subject.profile.state.folder
    cni.site.space.run(["mkdir", "-p", folder])
    cni.site.space.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder])
    pods = cni.pods(3)
    for number, pod in enumerate(pods):
        cni.add(f"abc{number}", pod).ok()
    cni.site.space.run(["sh", "-c", f"yes > {folder}/ballast"], check=False)
    for number, pod in enumerate(pods):
        cni.delete(f"abc{number}", pod).ok()
    cni.site.path(f"{folder}/ballast").unlink()
    cni.all_free(13, 14)


@case(63, "X", "fsync_order")
def test_the_reservation_is_durable_before_the_link_is_made(cni: Cni) -> None:
    """By the order of system calls: a sync of the state comes before the first RTM_NEWLINK."""
    cni.subject.need_state()
    if not cni.subject.profile.state.lives_over_reboot:
        pytest.skip(f"profile {cni.subject.profile.name}: its state is of one boot, a power cut makes it void")
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = cni.folder / "calls"
    calls = "trace=fsync,fdatasync,sync_file_range,sendmsg,sendto"
    cni.call("ADD", "abc", cni.pod(), wrap=["strace", "-f", "-o", str(log), "-e", calls]).ok()
    lines = log.read_text().splitlines()
    synced = [number for number, line in enumerate(lines) if "sync(" in line or "sync_file_range(" in line]
    made = [number for number, line in enumerate(lines) if "RTM_NEWLINK" in line]
    assert made, "no RTM_NEWLINK was seen"
    assert synced, "nothing is ever synced: after a power cut an address in use may be free"
    assert synced[0] < made[0]


@case(64, "X", "reboot_stale_state")
@pytest.mark.parametrize("run_is_kept", [False, True], ids=["/run is lost", "/run is kept"])
def test_after_a_reboot_every_address_is_free_again(cni: Cni, run_is_kept: bool) -> None:
    """The node ends with pods on it. Another node goes on with its disk, another boot id, and none of its links."""
    cni.with_pool("10.88.1.0/29")
    size = len(cni.capacity(8))
    old = {f"old{number}": pod.path for number, pod in enumerate(cni.pods(3))}
    for container, path in old.items():
        cni.add(container, path).ok()
    reboot(cni, "/var/lib", *(["/run"] if run_is_kept else []))
    for container, path in list(old.items())[:1]:
        cni.delete(container, path).ok()
    if cni.subject.versions[-1] == "1.1.0":
        cni.gc().ok()
    assert len(cni.capacity(8)) == size, "addresses of pods that ended with the last boot are lost"


def reboot(cni: Cni, *kept: str) -> None:
    """Another node with the files of these folders."""
    boot_id = cni.folder / "boot_id"
    boot_id.write_text("11111111-2222-4333-8444-555555555555\n")
    node = Site(cni.stack, boot_id)
    for folder in kept:
        source = cni.site.path("/run/.suite/written" if folder == "/var/lib" else folder)
        leave_out = shutil.ignore_patterns(".suite", "netns")
        shutil.copytree(source, node.path(folder), symlinks=True, dirs_exist_ok=True, ignore=leave_out)
    cni.site.space.close()
    cni.move(node)
