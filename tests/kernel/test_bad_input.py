"""Every bad input gets one clear error on stdout, and leaves nothing behind."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import locks
from cni_plugin.claims import Ledger
from tests.kernel.conftest import Node, netns_path
from tests.lab.netns import Namespace


def in_mounts(*commands: str) -> Callable[[list[str]], list[str]]:
    """Run a call after these shell commands in a mount namespace of its own."""

    def wrap(argv: list[str]) -> list[str]:
        return ["unshare", "--mount", "sh", "-ec", "; ".join([*commands, 'exec "$@"']), "sh", *argv]

    return wrap


def test_a_missing_netns_is_named_and_not_created(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "gone"
    node.call("ADD", "abc", str(path)).fails_with(3, str(path), "does not exist")
    assert not path.exists()
    assert node.holdings() == []


@pytest.mark.parametrize(
    "kind", ["file", "folder", "fifo", "socket", "mount namespace", "loop of links", "through a file"]
)
def test_what_is_no_netns_is_refused(node: Node, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "netns"
    if kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "mount namespace":
        path = Path("/proc/self/ns/mnt")
    elif kind == "loop of links":
        path.symlink_to(path)
    else:
        path.write_text("")
        path = path / "netns"
    node.call("ADD", "abc", str(path)).fails_with(8, str(path))
    assert node.holdings() == []


@pytest.mark.parametrize("path", ["/proc/self/ns/net", "by pid"])
def test_the_nodes_own_netns_is_refused_before_any_change(node: Node, path: str) -> None:
    node.call("ADD", "abc", netns_path(node.space) if path == "by pid" else path).fails_with(8, "own network namespace")
    assert not node.state_dir.exists()
    assert node.ruleset() == ""
    assert node.call("DEL", "abc", path if path != "by pid" else netns_path(node.space)).exit_code == 0
    assert set(node.witness(node.space)["links"]) == {"lo", "uplink"}


def test_a_taken_interface_name_is_refused_and_left_alone(node: Node) -> None:
    pod = node.pod()
    pod.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"])
    node.add("abc", pod).fails_with(103, "eth0 exists already")
    assert "eth0" in node.witness(pod)["links"]
    assert node.holdings() == []


@pytest.mark.parametrize(
    "stdin",
    ["", '{"', "[]", "null", '"x"', '{"name": NaN}', "\ufeff{}", '{"name":"a","name":"b"}', "[" * 100000],
    ids=["empty", "cut", "list", "null", "string", "NaN", "BOM", "duplicate key", "deep"],
)
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_invalid_json_is_code_6(node: Node, command: str, stdin: str) -> None:
    node.call(command, "abc", "/proc/self/ns/net", stdin=stdin).fails_with(6, "stdin")


@pytest.mark.parametrize("version", ["9.9.9", "1.2.0", "abc", "1", "1.x.0"])
def test_an_unknown_version_is_code_1_with_the_supported_ones(node: Node, version: str) -> None:
    answer = node.add("abc", node.pod(), cniVersion=version)
    answer.fails_with(1, version)
    assert "1.1.0" in answer.json["details"]
    assert node.holdings() == []


def test_a_full_pool_is_code_100_with_counts_and_an_address_comes_free_by_del(node: Node) -> None:
    small = {"ranges": [[{"subnet": "10.244.0.0/30"}]]}
    pods = [node.pod() for _ in range(3)]
    for count in range(2):
        assert node.add(f"c{count}", pods[count], ipam=small).exit_code == 0
    before = node.holdings()
    node.add("c2", pods[2], ipam=small).fails_with(100, "no IP addresses available in range set", "2 usable, 2 held")
    assert node.holdings() == before
    node.call("DEL", "c0", pods[0])
    assert node.add("c2", pods[2], ipam=small).address == "10.244.0.1"


def test_a_claimed_host_port_is_code_109_and_names_its_holder(node: Node) -> None:
    node.call(
        "ADD",
        "abc",
        node.pod(),
        env={"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"},
        runtimeConfig={"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]},
    )
    before = node.holdings()
    specific = [{"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.2"}]
    node.call("ADD", "xyz", node.pod(), runtimeConfig={"portMappings": specific}).fails_with(109, "80", "shop/web")
    assert node.holdings() == before
    assert node.add("udp", node.pod(), ("udp", 80, 80)).exit_code == 0


def test_a_read_only_state_folder_is_said_by_add_and_status(node: Node) -> None:
    node.state_dir.mkdir()
    read_only = in_mounts(f"mount -t tmpfs -o ro none {node.state_dir}")
    node.call("ADD", "abc", node.pod(), wrap=read_only).fails_with(104, str(node.state_dir), "Read-only")
    node.call("STATUS", wrap=read_only).fails_with(50, str(node.state_dir))
    assert node.call("DEL", "abc", wrap=read_only).exit_code == 0
    assert node.holdings() == []


@pytest.mark.parametrize("inodes", range(2, 16))
def test_a_full_state_folder_fails_add_cleanly_wherever_it_fills(node: Node, inodes: int) -> None:
    node.state_dir.mkdir()
    pod = node.pod()
    # The folder is gone with its mount namespace: whoever fails must list in there what it left.
    claims_left = " -o ".join(f"-path '*/{name}/*'" for name in ("pending", "attachments", "addresses", "ports"))

    def add_then_list(argv: list[str]) -> list[str]:
        mount = f"mount -t tmpfs -o size=64k,nr_inodes={inodes} none {node.state_dir}"
        script = f'{mount}; "$@" || {{ find {node.state_dir} {claims_left} >&2; exit 1; }}'
        return ["unshare", "--mount", "sh", "-ec", script, "sh", *argv]

    answer = node.call("ADD", "abc", pod, wrap=add_then_list)
    if inodes < 13:
        answer.fails_with(104, str(node.state_dir))
    if answer.exit_code:
        assert answer.stderr == ""
        assert set(node.witness(node.space)["links"]) == {"lo", "uplink"}
        assert "eth0" not in node.witness(pod)["links"]


def test_a_missing_nft_is_said_by_add_and_status(node: Node) -> None:
    without = in_mounts("for f in /usr/sbin/nft /sbin/nft; do if [ -e $f ]; then mount --bind /dev/null $f; fi; done")
    node.call("STATUS", wrap=without).fails_with(50, "nft")
    answer = node.call("ADD", "abc", node.pod(), wrap=without)
    answer.fails_with(107, "nft is not installed")
    assert "nftables" in answer.json["details"]
    assert node.holdings() == []
    plain: dict[str, Any] = {"ipMasq": False, "capabilities": None}
    assert node.call("ADD", "abc", node.pod(), wrap=without, **plain).exit_code == 0


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "talking"])
def test_an_nft_that_hangs_is_stopped_and_said(node: Node, tmp_path: Path, silent: bool) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\n{'' if silent else 'echo waiting'}\necho $$ >{tmp_path}/pid\nexec /bin/sleep 60\n")
    nft.chmod(0o755)
    node.call("ADD", "abc", node.pod(), env={"PATH": str(tmp_path)}).fails_with(107, str(nft), "did not end within 5 s")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert node.holdings() == []
    assert node.add("abc", node.pod()).exit_code == 0


@pytest.mark.parametrize("which", ["attachment", "node"])
def test_a_held_lock_is_code_11_and_costs_no_address(node: Node, which: str) -> None:
    node.add("abc", node.pod())
    ledger = object.__new__(Ledger)
    ledger.lock_path = str(next(node.state_dir.glob("*/lock")))
    ledger.descriptor = os.open(ledger.lock_path, os.O_RDWR | os.O_CLOEXEC)
    lock = ledger.attachment_lock("xyz", "eth0") if which == "attachment" else ledger.host_lock()
    try:
        with lock:
            node.add("xyz", node.pod()).fails_with(11, f"{locks.LOCK_WAIT_SECONDS:g} s", "lock")
        assert node.files("addresses") == ["10.244.0.1"]
        assert node.files("pending") == []
        assert node.add("xyz", node.pod()).address == "10.244.0.2"
    finally:
        os.close(ledger.descriptor)


def test_a_pod_that_vanishes_midway_leaves_nothing(node: Node) -> None:
    pod: Namespace = node.pod()
    path = netns_path(pod)
    pod.close()
    node.call("ADD", "abc", path).fails_with(3, path)
    assert node.holdings() == []


def test_an_add_that_fails_at_its_very_last_step_takes_its_elements_back(node: Node) -> None:
    node.add("abc", node.pod())
    node.call("DEL", "abc")
    attachments = next(node.state_dir.glob("*/attachments"))
    attachments.rmdir()
    pod = node.pod()
    node.add("xyz", pod, ("tcp", 8080, 80)).fails_with(104, "attachments")
    assert "8080" not in node.ruleset()
    assert "eth0" not in node.witness(pod)["links"]
    assert node.holdings() == []


@pytest.mark.parametrize("previous", [{"interfaces": ["x"]}, {"ips": 7}, {"ips": [None]}], ids=str)
def test_check_with_a_malformed_prev_result_is_code_7(node: Node, previous: dict[str, Any]) -> None:
    pod = node.pod()
    node.add("abc", pod)
    node.call("CHECK", "abc", pod, prevResult=previous).fails_with(7, "prevResult")
