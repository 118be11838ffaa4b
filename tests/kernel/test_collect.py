"""GC: by the specification's complete list, and by a runtime's list of live sandboxes, which is never complete."""

from typing import Any

import pytest

from cni_plugin.attachment import lease_id
from cni_plugin.claims import boot_time
from tests.kernel.conftest import Node
from tests.lab.waiting import wait_until

VALID = "cni.dev/valid-attachments"


NONE: dict[str, Any] = {VALID: []}


def sandboxes(*containers: str, as_of: float | None = None) -> dict[str, Any]:
    return {"podwire.dev/gc": {"containers": list(containers), "asOf": boot_time() if as_of is None else as_of}}


def dies(node: Node, container: str, pod: Any) -> None:
    """The pod's namespace goes without a DEL, and the kernel takes the link along."""
    pod.close()
    wait_until(lambda: lease_id(container, "eth0") not in node.witness(node.space)["links"], 10, "the link to go")


@pytest.mark.parametrize("key", [VALID, "cni.dev/attachments"])
def test_either_key_names_what_stays(node: Node, key: str) -> None:
    for name in ("keep", "drop"):
        node.add(name, node.pod())
    named: dict[str, Any] = {key: [{"containerID": "keep", "ifname": "eth0"}]}
    assert node.call("GC", **named).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1"]


def test_what_either_of_both_keys_names_stays(node: Node) -> None:
    for name in ("a", "b", "drop"):
        node.add(name, node.pod())
    lists: dict[str, Any] = {
        VALID: [{"containerID": "a", "ifname": "eth0"}],
        "cni.dev/attachments": [{"containerID": "b"}],
    }
    assert node.call("GC", **lists).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1", "10.244.0.2"]


def test_an_empty_list_removes_all_of_this_network_and_nothing_of_another(node: Node) -> None:
    node.add("a", node.pod(), ("tcp", 80, 80))
    node.add("b", node.pod(), name="other")
    assert node.call("GC", **NONE).exit_code == 0
    assert node.files("attachments") == [lease_id("b", "eth0")]
    assert "tcp . 80" not in node.ruleset()


def test_a_dead_pod_goes_when_two_lists_miss_it(node: Node) -> None:
    pods = {name: node.pod() for name in ("live", "dead")}
    for name, pod in pods.items():
        node.add(name, pod, ("tcp", 8080 if name == "dead" else 8081, 80))
    dies(node, "dead", pods["dead"])
    assert node.call("GC", **sandboxes("live")).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1", "10.244.0.2"]
    assert node.call("GC", **sandboxes("live")).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1"]
    assert "8080" not in node.ruleset()
    assert node.files("absent") == []


def test_one_list_given_twice_is_one_list(node: Node) -> None:
    pod = node.pod()
    node.add("dead", pod)
    dies(node, "dead", pod)
    now = boot_time()
    for _ in range(3):
        assert node.call("GC", **sandboxes(as_of=now)).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1"]


def test_a_pod_that_a_list_names_again_starts_anew(node: Node) -> None:
    pod = node.pod()
    node.add("pod", pod)
    node.call("GC", **sandboxes())
    assert node.files("absent") == [lease_id("pod", "eth0")]
    node.call("GC", **sandboxes("pod"))
    assert node.files("absent") == []
    dies(node, "pod", pod)
    node.call("GC", **sandboxes())
    assert node.files("addresses") == ["10.244.0.1"]


def test_a_pod_whose_namespace_lives_stays_though_every_list_misses_it(node: Node) -> None:
    # The sandbox of a pod in the making is in no list yet; nor is the second interface of any.
    pod = node.pod()
    node.add("making", pod)
    node.call("ADD", "making", pod, "net1", name="testnet", ipam={"ranges": [[{"subnet": "10.245.0.0/24"}]]})
    for _ in range(3):
        assert node.call("GC", **sandboxes()).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1", "10.245.0.1"]


def test_a_pod_whose_link_is_gone_but_whose_namespace_lives_stays(node: Node) -> None:
    pod = node.pod()
    node.add("abc", pod)
    node.space.run(["ip", "link", "del", lease_id("abc", "eth0")])
    for _ in range(3):
        assert node.call("GC", **sandboxes()).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1"]


def test_an_attachment_made_after_the_list_was_begun_stays(node: Node) -> None:
    began = boot_time()
    pod = node.pod()
    node.add("young", pod)
    dies(node, "young", pod)
    for step in (0.0, 0.001):
        assert node.call("GC", **sandboxes(as_of=began + step)).exit_code == 0
    assert node.files("addresses") == ["10.244.0.1"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        pytest.param({"containers": ["a"]}, "asOf null", id="no time"),
        pytest.param({"asOf": 1.0}, "containers", id="no list"),
        pytest.param({"containers": "a", "asOf": 1.0}, "containers", id="list a string"),
        pytest.param({"containers": [1], "asOf": 1.0}, "containers", id="number in the list"),
        pytest.param({"containers": [], "asOf": 1e12}, "asOf 1000000000000.0", id="in the future"),
        pytest.param({"containers": [], "asOf": True}, "asOf true", id="time a bool"),
        pytest.param([], "podwire.dev/gc [] must be of type dict", id="a list"),
    ],
)
def test_a_malformed_list_removes_nothing(node: Node, section: Any, words: str) -> None:
    node.add("abc", node.pod())
    node.call("GC", **{"podwire.dev/gc": section}).fails_with(7, words)
    assert node.files("addresses") == ["10.244.0.1"]


def test_gc_forgets_marks_that_ran_out(node: Node) -> None:
    node.add("abc", node.pod())
    node.call("DEL", "abc")
    (cooling,) = node.state_dir.glob("*/cooling/*")
    cooling.unlink()
    cooling.symlink_to("1")  # a release a millisecond after boot
    (cooling.parent.parent / "sticky/pwlongago").symlink_to("10.244.0.1")
    # What somebody put there stays, and keeps nothing else from going.
    (cooling.parent / "0").mkdir()
    assert node.call("GC", **NONE).exit_code == 0
    assert node.files("cooling", "sticky") == ["0"]
