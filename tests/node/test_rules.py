"""Rules and audit in front of a real containerd, of pods from before the shim's start."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cri.test_rules_in_flight import GUARD
from tests.cri.test_third_party import install
from tests.lab import images
from tests.lab.cri import CriClient, CriError
from tests.lab.node import Node
from tests.lab.waiting import wait_until

CONFIG = """
interceptors = ["audit", "guard"]
[audit]
file = "{base}/audit.jsonl"
[[rule]]
name = "no-exec"
interceptor = "guard"
[rule.match]
pods = ["guarded"]
annotations = {{ "example.com/exec" = "n*" }}
images = ["{image}"]
runtime_handlers = [""]
"""


@pytest.fixture
def late(node: Node) -> Iterator[CriClient]:
    """A client of a second shim, started when the pods were there already."""
    guarded = node.run_pod("guarded", annotations={"example.com/exec": "no"})
    free = node.run_pod("free")
    for pod in (guarded, free):
        node.run_tools(pod, "shell", "exec sleep 3600")
    env = install(node.base / "site", "guard", "guard", GUARD, "[podwire.interceptors]\nguard = guard:Guard\n")
    (node.base / "late.toml").write_text(CONFIG.format(base=node.base, image=images.TOOLS))
    shim = node.namespace.start(
        [
            *(sys.executable, "-m", "cri_shim", "--listen", "unix:///run/podwire/late.sock"),
            *("--upstream", f"unix://{node.containerd.socket}", "--config", str(node.base / "late.toml")),
        ],
        node.base / "late.log",
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    socket = node.base / "run/podwire/late.sock"
    wait_until(socket.exists, 30, "the second shim", hint=(node.base / "late.log").read_text)
    with contextlib.closing(CriClient(socket)) as client:
        yield client
    shim.kill()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_shim_that_was_not_there_when_a_pod_was_made_knows_it_all_the_same(node: Node, late: CriClient) -> None:
    guarded, free = node.pods
    with pytest.raises(CriError, match="no exec in default/guarded"):
        late.execute(guarded.containers[0], ["true"])
    assert late.execute(free.containers[0], ["sh", "-c", "exit 3"])[0] == 3
    file = node.base / "audit.jsonl"
    wait_until(lambda: len(lines(file)) == 2, 20, "the audit", hint=file.read_text)
    said = [
        {key: line.get(key) for key in ("pod_name", "pod_namespace", "container_name", "code", "exit_code", "rules")}
        for line in lines(file)
    ]
    common = {"pod_namespace": "default", "container_name": "shell"}
    assert said == [
        {"pod_name": "guarded", **common, "code": "PERMISSION_DENIED", "exit_code": None, "rules": ["no-exec"]},
        {"pod_name": "free", **common, "code": "OK", "exit_code": 3, "rules": None},
    ]
