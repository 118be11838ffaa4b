"""containerd's own interface beside CRI, on real nodes: what the shim logs of it, and `podwire-cri inspect`."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.lab import images
from tests.lab.cri import Pod
from tests.lab.node import Node
from tests.lab.waiting import wait_until


def test_the_upstreams_health_is_logged(node: Node) -> None:
    wait_until(lambda: node.shim_events("runtime-health"), 20, "a line of health", hint=node.explain)
    assert node.shim_events("runtime-health")[-1]["serving"] is True


def test_an_exit_is_logged_at_once_with_its_pod_and_code(node: Node) -> None:
    pod = node.run_pod("ends")
    container = node.run_tools(pod, "brief", "exit 7")

    def logged() -> list[dict[str, Any]]:
        return [each for each in node.shim_events("exit") if each.get("container_id") == container]

    line = wait_until(logged, 10, "the exit in the log", hint=node.explain)[0]
    assert {key: line[key] for key in ("pod_namespace", "pod_name", "sandbox_id", "container_name", "exit_code")} == {
        "pod_namespace": "default",
        "pod_name": "ends",
        "sandbox_id": pod.id,
        "container_name": "brief",
        "exit_code": 7,
    }


def test_running_out_of_memory_is_logged_with_its_pod(node: Node) -> None:
    pod = node.run_pod("greedy")
    script = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
    container = _limited(node, pod, script)
    line = wait_until(
        lambda: [each for each in node.shim_events("out-of-memory") if each.get("container_id") == container],
        20,
        "the line about memory",
        hint=node.explain,
    )[0]
    assert (line["pod_name"], line["sandbox_id"]) == ("greedy", pod.id)


def test_inspect_shows_the_specification_and_where_it_is_not_what_was_asked(node: Node) -> None:
    pod = node.run_pod("looked-at")
    container = _limited(node, pod, "exec sleep 3600")
    found = json.loads(_inspect(node, container[:20], "--json"))
    assert found["id"] == container
    assert found["specification"]["process"]["args"] == ["/bin/sh", "-c", "exec sleep 3600"]
    assert found["specification"]["linux"]["resources"]["memory"]["limit"] == LIMIT
    differences = {each["what"]: (each["asked"], each["became"]) for each in found["differences"]}
    assert differences["env PATH"][0] == ""
    assert "mount /proc" in differences, "that is the runtime's own"
    granted = {"args", "resource memory", "env ASKED", "capability NET_ADMIN", "capability CHOWN"}
    assert not granted & differences.keys(), "what became as asked"
    assert "  env PATH: - -> /" in _inspect(node, container)


LIMIT = 24 << 20


def _limited(node: Node, pod: Pod, script: str) -> str:
    created = node.cri.call(
        "CreateContainer",
        pod_sandbox_id=pod.id,
        config={
            "metadata": {"name": "limited", "attempt": 0},
            "image": {"image": images.TOOLS},
            "command": ["/bin/sh", "-c", script],
            "envs": [{"key": "ASKED", "value": b"yes"}],
            "log_path": "limited.log",
            "labels": {"io.kubernetes.container.name": "limited"},
            "linux": {
                "resources": {"memory_limit_in_bytes": LIMIT},
                "security_context": {
                    "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]},
                },
            },
        },
        sandbox_config=pod.config,
    ).container_id
    pod.containers.append(created)
    node.cri.call("StartContainer", container_id=created)
    return str(created)


def _inspect(node: Node, container: str, *options: str) -> str:
    command = [sys.executable, "-m", "cri_shim.cli", "inspect", container, *options]
    endpoint = ["--endpoint", f"unix://{node.containerd_socket}"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, *endpoint], cwd=images.REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
