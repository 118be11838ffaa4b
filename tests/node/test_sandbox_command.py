"""podwire-cri status and sandbox against real containerd, directly and through the shim."""

import ipaddress
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.lab import images
from tests.lab.cri import Pod
from tests.lab.node import NODE_ADDRESS, SUBNET, Node
from tests.lab.traffic import get_from_namespace


def podwire_cri(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "cri_shim.cli", *arguments]
    return subprocess.run(command, cwd=images.REPOSITORY, env=environment, capture_output=True, text=True, timeout=90)


def endpoint(node: Node, through: str) -> list[str]:
    return ["--endpoint", f"unix://{node.containerd_socket if through == 'directly' else node.cri_socket}"]


def run_sandbox(node: Node, name: str, *more: str, through: str = "directly") -> Pod:
    """One made by the command; the fixture removes it, whatever happens."""
    parent = ["--cgroup-parent", node.cgroup_parent]
    done = podwire_cri("sandbox", "run", "--name", name, "--json", *parent, *endpoint(node, through), *more)
    assert done.returncode == 0, done.stderr
    pod = Pod(name, json.loads(done.stdout)["id"], node.cri.call("Version"))
    node.pods.append(pod)
    return pod


def listed(node: Node) -> dict[str, dict[str, Any]]:
    done = podwire_cri("sandbox", "list", "--json", *endpoint(node, "directly"))
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)}


@pytest.mark.parametrize("through", ["directly", "shim"])
def test_status_names_the_network_that_was_loaded(node: Node, through: str) -> None:
    done = podwire_cri("status", "--json", *endpoint(node, through))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["network"] == {"name": "podwire", "plugins": "podwire", "load": "OK"}
    assert told["ready"] is True
    conditions = {each["type"]: each["status"] for each in told["conditions"]}
    assert conditions["RuntimeReady"] is conditions["NetworkReady"] is True
    assert (told["runtime"]["name"], told["cgroupDriver"]) == ("containerd", "cgroupfs")


def test_status_is_also_told_to_a_person(node: Node) -> None:
    lines = podwire_cri("status", *endpoint(node, "directly")).stdout.splitlines()
    assert lines[0].startswith(f"unix://{node.containerd_socket}: containerd ")
    assert "  NetworkReady: yes" in lines
    assert lines[-1] == "  network: podwire (podwire), its configuration: OK"


@pytest.mark.parametrize("through", ["directly", "shim"])
def test_a_sandbox_has_an_address_and_a_namespace_that_can_be_entered(node: Node, through: str) -> None:
    pod = run_sandbox(node, "smoke-a", through=through)
    one = listed(node)["smoke-a"]
    (address,) = one["addresses"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network(SUBNET)
    assert address == node.cri.address(pod)
    entered = node.namespace.run(["nsenter", f"--net={one['netns']}", "ip", "-o", "-4", "address"])
    assert f"{address}/32" in entered.stdout


def test_a_host_port_of_a_sandbox_leads_to_it(node: Node) -> None:
    run_sandbox(node, "smoke-a", "--host-port", "18080:8080")
    netns = listed(node)["smoke-a"]["netns"]
    server = node.namespace.start(
        ["nsenter", f"--net={netns}", "busybox", "httpd", "-f", "-p", "8080", "-h", "/"],
        node.base / "httpd.log",
    )
    try:
        assert "404 Not Found" in get_from_namespace(node.outside, NODE_ADDRESS, 18080)
    finally:
        server.kill()


def test_stop_and_remove_take_it_away_and_succeed_again(node: Node) -> None:
    pod = run_sandbox(node, "smoke-a")
    for verb, left in (("stop", True), ("stop", True), ("remove", False), ("remove", False)):
        done = podwire_cri("sandbox", verb, pod.id, *endpoint(node, "directly"))
        assert done.returncode == 0, done.stderr
        assert ("smoke-a" in listed(node)) is left
    assert done.stderr == f"podwire-cri: there is no sandbox {pod.id}\n"


@pytest.mark.parametrize("verb", ["stop", "remove"])
def test_sandboxes_of_others_are_left_alone(node: Node, verb: str) -> None:
    pod = node.run_pod("kubelets")
    assert listed(node) == {}
    done = podwire_cri("sandbox", verb, pod.id, *endpoint(node, "directly"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"podwire-cri: sandbox {pod.id} was not made by podwire-cri, and is left alone\n"
    assert node.cri.address(pod)
