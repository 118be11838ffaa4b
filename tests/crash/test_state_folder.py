"""A state folder that is full, read-only or damaged: no address twice, one clear error, and DEL takes the link."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.damage import DAMAGES, OF_CONTENT, OF_RECORDS, PLACES, Patient, repair
from tests.crash.matrix import BYSTANDER, Matrix, host_ports, trace
from tests.lab.failpoints import Step
from tests.lab.threadnode import ThreadNode

CONFIGURATION = "dual stack"


@pytest.fixture
def patient(launcher: Path, tmp_path: Path) -> Iterator[Patient]:
    """A node with an attached pod `a`."""
    made = Patient(launcher, tmp_path)
    with made.node:
        yield made


def cases() -> Iterator[Any]:
    """Every damage in every place where it is one of its own: claims are the record's inode, the rest no records."""
    for place in PLACES:
        for damage in DAMAGES:
            if place != "record" and (
                damage in OF_RECORDS or (place in ("address", "hostPort") and damage in OF_CONTENT)
            ):
                continue
            yield pytest.param(place, damage, id=f"{place}: {damage}")


@pytest.mark.parametrize(("place", "damage"), list(cases()))
def test_damage_is_said_or_repaired_and_hands_no_address_out_twice(patient: Patient, place: str, damage: str) -> None:
    node, path = patient.node, patient.path(place)
    DAMAGES[damage](path, patient.victim)
    added = patient.call("ADD", "b")
    assert added.code in (0, 104), added
    patient.matrix.no_address_twice()
    patient.call("CHECK", "a", prevResult=patient.result)
    patient.call("STATUS")
    listed = [{"containerID": each, "ifname": "eth0"} for each in (BYSTANDER, "a", "b")]
    gc: dict[str, Any] = {"cni.dev/valid-attachments": listed}
    patient.call("GC", **gc)
    patient.matrix.no_address_twice()
    assert patient.call("DEL", "a").code in (0, 104)
    assert node.addresses()["a"] == [], "the link is still there"
    again = patient.call("ADD", "a")
    assert again.code in (0, 104, 109), again
    patient.matrix.no_address_twice()
    patient.untouched()
    # Once a person took away what was planted, everything can go.
    if path.is_symlink() or path.is_dir() or path.is_fifo():
        repair(path)
    for container in ("a", "b"):
        assert patient.call("DEL", container).exit_code == 0
    patient.untouched()
    node.quiet()
    left = [line for line in patient.matrix.leftovers() if path.name not in line]
    assert left == []


@pytest.mark.parametrize("seed", range(4))
def test_a_record_cut_anywhere_frees_its_pod_all_the_same(patient: Patient, seed: int) -> None:
    record = patient.path("record")
    whole = len(record.read_bytes())
    for length in range(seed * whole // 4, (seed + 1) * whole // 4, max(1, whole // 24)):
        record = patient.path("record")
        record.write_bytes(record.read_bytes()[:length])
        assert patient.call("ADD", "b").code == 0
        patient.matrix.no_address_twice()
        assert patient.call("DEL", "a").code == 0, length
        assert patient.node.addresses()["a"] == []
        assert patient.call("DEL", "b").code == 0
        patient.node.quiet()
        assert patient.matrix.leftovers() == [], f"a record of {length} bytes"
        patient.own = []
        before = set(patient.node.state_dir.glob(PLACES["record"]))
        patient.call("ADD", "a")
        patient.own = sorted(set(patient.node.state_dir.glob(PLACES["record"])) - before)


FILES = {
    "open": errno.EMFILE,
    "unlink": errno.EROFS,
    "rename": errno.EROFS,
    "write": errno.ENOSPC,
    "link": errno.ENOSPC,
}
FILES |= {"symlink": errno.ENOSPC, "mkdir": errno.ENOSPC}
KERNEL = {"rtnetlink": errno.ENOBUFS, "netfilter": errno.ENOBUFS, "fork": errno.EAGAIN, "posix_spawn": errno.EAGAIN}
KERNEL |= {"F_OFD_SETLK": errno.ENOLCK, "sysctl": errno.EINVAL}


def failing(steps: list[Step], codes: dict[str, int]) -> Iterator[tuple[Step, str]]:
    """The steps of the call itself that can fail so, each with its failpoint; what follows the answer cannot matter."""
    for step in steps:
        kind, *words = step.name.split()
        if step.process != "0" or "unlock" in words or (kind, words[:1]) == ("write", ["1"]):
            continue
        if kind == "write" and words[1] in ("b'0'", "b'1'"):
            kind = "sysctl"
        if kind in codes:
            yield step, step.fail(codes[kind])


@pytest.mark.parametrize("codes", [FILES, KERNEL], ids=["files", "kernel"])
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_step_that_fails_is_one_clear_error_and_leaves_nothing(
    node: ThreadNode, launcher: Path, tmp_path: Path, verb: str, codes: dict[str, int]
) -> None:
    chosen = list(failing(trace(node, CONFIGURATION, verb), codes))
    matrix = Matrix(launcher, tmp_path / "failing", CONFIGURATION)
    unclear, left = [], []
    with matrix.node:
        for count, (step, failpoint) in enumerate(chosen):
            container, ports = f"c{count}", host_ports(CONFIGURATION, 2000)
            path = matrix.pod(container)
            if verb == "DEL":
                assert matrix.node.call("ADD", container, path, **ports).exit_code == 0
            reply = matrix.node.call(verb, container, path, failpoint=failpoint, **ports)
            if reply.exit_code not in (0, 1) or reply.code == 999:
                unclear.append(f"{step}: {reply}")
            if verb == "DEL" or reply.exit_code == 0:
                assert matrix.node.call("DEL", container, path).exit_code == 0, step
            found = matrix.leftovers()
            if found:
                left.append(f"{step}: {found} ({reply})")
                assert matrix.node.call("DEL", container, path).exit_code == 0, step
                matrix.baseline |= {line.removeprefix("+ ") for line in matrix.leftovers()}
            matrix.node.drop_pod(container)
    assert not left, "\n".join(left)
    assert not unclear, "\n".join(unclear)


def test_a_full_folder_fails_adds_cleanly_and_lets_dels_work(node: ThreadNode) -> None:
    node.config |= {"ipam": {"ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10:244::/112"}]]}}
    node.state_dir.mkdir()
    node.run(["mount", "-t", "tmpfs", "none", str(node.state_dir)])
    for count in range(12):
        reply = node.call("ADD", f"c{count}", node.pod(f"c{count}"), **host_ports(CONFIGURATION, 1000 + count))
        assert reply.exit_code == 0, reply
    before = node.holdings()
    used = int(node.run(["df", "--output=iused", str(node.state_dir)]).split()[-1])
    refused = 0
    for free in range(8):
        node.run(["mount", "-o", f"remount,nr_inodes={used + free}", str(node.state_dir)])
        reply = node.call("ADD", "next", node.pod("next"), **host_ports(CONFIGURATION, 999))
        assert reply.code in (0, 104), reply
        refused += reply.code == 104
        if reply.code == 0:
            assert node.call("DEL", "next", node.pods["next"]).exit_code == 0
        node.drop_pod("next")
        node.quiet()
        assert node.holdings() == before
        assert node.call("DEL", f"c{free}", node.pods[f"c{free}"]).exit_code == 0
        node.quiet()
        before = node.holdings()
        used = int(node.run(["df", "--output=iused", str(node.state_dir)]).split()[-1])
    assert 0 < refused < 8


PARTS = ("", "attachments", "pending", "deleting", "addresses", "ports", "cooling", "cursors", "networks")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part or "all")
def test_a_read_only_folder_is_said_and_del_still_takes_the_link(node: ThreadNode, part: str) -> None:
    assert node.call("ADD", "a", node.pod("a"), **host_ports(CONFIGURATION, 999)).exit_code == 0
    before = node.holdings()
    folder = str(next(node.state_dir.glob("*-*")) / part) if part else str(node.state_dir)
    node.run(["mount", "--bind", folder, folder])
    node.run(["mount", "-o", "remount,bind,ro", folder])
    reply = node.call("ADD", "b", node.pod("b"), **host_ports(CONFIGURATION, 998))
    assert reply.code in (0, 104), reply
    if reply.code == 0:
        assert part in ("deleting", "cooling", "cursors", "networks")
        assert node.call("DEL", "b", node.pods["b"]).code in (0, 104)
    elif part != "deleting":
        node.quiet()
        left = {line for line in node.holdings() if "/pending/" not in line and "/addresses/" not in line}
        assert {line for line in left - before if not line.startswith("file")} == set()
    reply = node.call("DEL", "a", node.pods["a"])
    assert reply.code in (0, 104), reply
    assert node.addresses()["a"] == []
    node.run(["umount", folder])
    for container in ("a", "b"):
        assert node.call("DEL", container, node.pods[container]).exit_code == 0
    node.quiet()
    assert not any(line.startswith(("file", "nft")) and part and "999" in line for line in node.holdings())
    assert [line for line in node.holdings() if "/addresses/" in line or "/attachments/" in line] == []
