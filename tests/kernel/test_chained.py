"""Behind another plugin: only the hostPorts, and the other's result passed on."""

import json
from typing import Any

import pytest

from tests.kernel.conftest import NODE_ADDRESS, OUTSIDE_ADDRESS, Node
from tests.lab.netns import Namespace, connect

OWN: dict[str, Any] = {"chained": ["portMappings"], "ipam": None, "ipMasq": None, "name": "bridged"}
PREVIOUS: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "eth0", "sandbox": "/proc/1/ns/net"}],
    "ips": [{"address": "10.88.0.2/24", "gateway": "10.88.0.1", "interface": 0}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}],
}


def ports(*mappings: tuple[str, int, int]) -> dict[str, Any]:
    return {"portMappings": [{"protocol": p, "hostPort": host, "containerPort": pod} for p, host, pod in mappings]}


@pytest.fixture
def pod(node: Node) -> Namespace:
    """A pod that another plugin wired."""
    pod = node.pod()
    connect(node.space, "other0", "10.88.0.1/24", pod, "eth0", "10.88.0.2/24")
    pod.run(["ip", "route", "add", "default", "via", "10.88.0.1"])
    node.space.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    return pod


def test_a_pod_of_another_plugin_gets_host_ports_and_loses_them_again(node: Node, pod: Namespace) -> None:
    before = json.loads(node.space.run(["ip", "-j", "link"]).stdout)
    answer = node.call("ADD", "abc", pod, **OWN, prevResult=PREVIOUS, runtimeConfig=ports(("tcp", 8080, 80)))
    assert (answer.exit_code, answer.json) == (0, PREVIOUS)
    node.serve(pod, "0.0.0.0", 80)
    assert node.ask(node.outside, NODE_ADDRESS, 8080) == OUTSIDE_ADDRESS
    assert json.loads(node.space.run(["ip", "-j", "link"]).stdout) == before
    assert node.files("addresses") == []
    assert node.call("CHECK", "abc", pod, **OWN, prevResult=answer.json).exit_code == 0
    node.space.run(["nft", "delete", "element", "inet", "podwire1", "hostport4", "{ tcp . 8080 }"])
    node.call("CHECK", "abc", pod, **OWN, prevResult=answer.json).fails_with(108, "hostport4")
    assert node.call("DEL", "abc", pod, **OWN).exit_code == 0
    assert node.files("attachments", "ports", "pending", "deleting") == []
    assert "10.88.0.2" not in node.ruleset()
    assert json.loads(node.space.run(["ip", "-j", "link"]).stdout) == before


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_a_result_of_any_version_is_understood_and_passed_on(node: Node, pod: Namespace, version: str) -> None:
    previous: dict[str, Any] = {"cniVersion": version, "ips": [{"version": "4", "address": "10.88.0.2/24"}]}
    if version == "0.2.0":
        previous = {"cniVersion": version, "ip4": {"ip": "10.88.0.2/24", "gateway": "10.88.0.1"}}
    answer = node.call(
        "ADD", "abc", pod, **OWN, cniVersion=version, prevResult=previous, runtimeConfig=ports(("tcp", 80, 80))
    )
    assert answer.json == previous
    assert "10.88.0.2 . 80" in node.ruleset()


def test_a_pod_without_host_ports_passes_through(node: Node, pod: Namespace) -> None:
    answer = node.call("ADD", "abc", pod, **OWN, prevResult=PREVIOUS)
    assert (answer.exit_code, answer.json) == (0, PREVIOUS)
    assert not node.state_dir.exists()


def test_claims_of_both_roles_are_of_one_node(node: Node, pod: Namespace) -> None:
    node.add("own", node.pod(), ("tcp", 8080, 80))
    answer = node.call("ADD", "abc", pod, **OWN, prevResult=PREVIOUS, runtimeConfig=ports(("tcp", 8080, 80)))
    answer.fails_with(109, "tcp/0.0.0.0:8080")
    assert node.files("pending") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"prevResult": None}, "prevResult is missing", id="first of the list"),
        pytest.param({"prevResult": {"ips": [{"address": "x"}]}}, "prevResult: 'x'", id="garbled result"),
        pytest.param({"chained": ["masquerade"], "prevResult": PREVIOUS}, 'chained ["masquerade"]', id="unknown word"),
    ],
)
def test_what_cannot_be_is_code_7(node: Node, pod: Namespace, changes: dict[str, Any], words: str) -> None:
    node.call("ADD", "abc", pod, **(OWN | changes)).fails_with(7, words)
