"""The first ADD on a node where other plugins' pods live, and records that something broke."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.attachment import lease_id
from tests.kernel.conftest import Answer, Node
from tests.lab.netns import Namespace


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    """host-local's folder of another network, on a node whose /var/lib is of the test alone."""
    folder = tmp_path / "lib/cni/networks/kindnet"
    folder.mkdir(parents=True)
    return folder


def call(node: Node, leases: Path, verb: str, container: str, pod: Namespace, address: str = "") -> Answer:
    """A call on that node, perhaps with a request for an address."""
    script = f'mount --bind {leases.parents[2]} /var/lib && exec "$@"'
    return node.call(
        verb,
        container,
        pod,
        env={"CNI_ARGS": f"IP={address}"} if address else {},
        wrap=lambda argv: ["unshare", "--mount", "sh", "-c", script, "sh", *argv],
    )


def test_addresses_of_other_plugins_pods_are_not_given_until_they_are_free(node: Node, leases: Path) -> None:
    for last, container in ((1, "their1"), (2, "their2")):
        (leases / f"10.244.0.{last}").write_text(f"{container}\r\neth0")
    assert call(node, leases, "ADD", "ours1", node.pod()).address == "10.244.0.3"
    assert node.files("foreign") == ["10.244.0.1", "10.244.0.2"]
    # The runtime calls whichever plugin is configured now: a DEL for their pod frees its address.
    assert call(node, leases, "DEL", "their1", node.pod()).exit_code == 0
    assert node.files("foreign") == ["10.244.0.2"]
    # And what their plugin frees itself is free at once.
    (leases / "10.244.0.2").unlink()
    assert call(node, leases, "ADD", "ours2", node.pod(), "10.244.0.2").address == "10.244.0.2"


def test_a_foreign_address_is_refused_on_request_with_the_file_that_holds_it(node: Node, leases: Path) -> None:
    (leases / "10.244.0.9").write_text("their1\r\neth0")
    answer = call(node, leases, "ADD", "ours", node.pod(), "10.244.0.9")
    answer.fails_with(101, "10.244.0.9", "/var/lib/cni/networks/kindnet/10.244.0.9")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\0", b'{"schema": 99}', b"[]" * 10, b"[" * 100_000],
    ids=["empty", "torn", "binary", "newer", "list", "deep"],
)
@pytest.mark.parametrize("state", ["attachments", "pending", "deleting"])
def test_del_gives_back_what_a_broken_record_held(node: Node, state: str, content: bytes) -> None:
    node.add("abc", node.pod(), ("tcp", 8080, 80))
    node.add("other", node.pod(), ("tcp", 8081, 80))
    record = next(node.state_dir.glob(f"*/attachments/{lease_id('abc', 'eth0')}"))
    target = record.parent.parent / state / record.name
    record.rename(target)
    target.write_bytes(content)
    answer = node.call("DEL", "abc")
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert node.files("addresses", "ports", "attachments", "pending", "deleting") == sorted(
        ["10.244.0.2", "tcp-8081-0.0.0.0", lease_id("other", "eth0")]
    )
    assert "8080" not in node.ruleset()
    assert "8081" in node.ruleset()
    assert lease_id("abc", "eth0") not in node.witness(node.space)["links"]
    notes = json.loads(node.log.read_text().splitlines()[-1])["notes"]
    assert "released all the same: 10.244.0.1, tcp-8080-0.0.0.0" in notes[0]


def test_add_after_a_broken_record_says_what_to_do_and_changes_nothing(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod)
    record = next(node.state_dir.glob("*/attachments/*"))
    record.write_bytes(b"{")
    node.add("abc", pod).fails_with(104, str(record))
    assert node.call("DEL", "abc").exit_code == 0
    assert node.add("abc", pod).exit_code == 0


def test_a_folder_that_lost_a_part_still_lets_pods_end(node: Node) -> None:
    node.add("abc", node.pod(), ("tcp", 8080, 80))
    for name in ("cooling", "sticky", "foreign", "absent", "networks", "cursors"):
        node.space.run(["rm", "-r", *map(str, node.state_dir.glob(f"*/{name}"))])
    assert node.call("DEL", "abc").exit_code == 0
    assert node.holdings() == []


@pytest.mark.parametrize("by", ["DEL", "GC"])
def test_claims_of_a_record_that_is_gone_are_given_back(node: Node, by: str) -> None:
    node.add("abc", node.pod(), ("tcp", 8080, 80))
    node.add("other", node.pod(), ("tcp", 8081, 80))
    next(node.state_dir.glob(f"*/attachments/{lease_id('abc', 'eth0')}")).unlink()
    named: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "other", "ifname": "eth0"}]}
    assert (node.call("DEL", "abc") if by == "DEL" else node.call("GC", **named)).exit_code == 0
    assert node.files("addresses", "ports", "attachments") == sorted(
        ["10.244.0.2", "tcp-8081-0.0.0.0", lease_id("other", "eth0")]
    )
    assert "8080" not in node.ruleset()
    assert lease_id("abc", "eth0") not in node.witness(node.space)["links"]


@pytest.mark.parametrize("by", ["DEL", "GC"])
def test_a_draft_of_a_killed_add_goes(node: Node, by: str) -> None:
    node.add("other", node.pod())
    (next(node.state_dir.glob("*/pending")) / f".{lease_id('abc', 'eth0')}").write_text("{")
    named: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "other", "ifname": "eth0"}]}
    assert (node.call("DEL", "abc") if by == "DEL" else node.call("GC", **named)).exit_code == 0
    assert node.files("pending", "addresses") == ["10.244.0.1"]


def test_a_lock_that_cannot_be_opened_keeps_no_link(node: Node) -> None:
    node.add("abc", node.pod())
    lock = next(node.state_dir.glob("*-*/lock"))
    lock.unlink()
    lock.mkdir()
    node.call("DEL", "abc").fails_with(104, "state folder")
    assert lease_id("abc", "eth0") not in node.witness(node.space)["links"]
    lock.rmdir()
    lock.touch()
    assert node.call("DEL", "abc").exit_code == 0
    assert node.holdings() == []
