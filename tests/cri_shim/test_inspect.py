"""Where an OCI specification is not what CRI asked for."""

from __future__ import annotations

from typing import Any

import pytest

from cri_shim.cli.inspect import Difference, Inspected

REQUEST: dict[str, Any] = {
    "command": ["/bin/app"],
    "args": ["--fast"],
    "working_dir": "/srv",
    "envs": [{"key": "A", "value": "1=2"}],
    "mounts": [{"container_path": "/data", "host_path": "/var/data", "readonly": True}],
    "linux": {
        "resources": {"memory_limit_in_bytes": 1024, "cpu_shares": 2},
        "security_context": {
            "readonly_rootfs": True,
            "no_new_privs": True,
            "capabilities": {"add_capabilities": ["NET_ADMIN", "ALL"], "drop_capabilities": ["CAP_CHOWN"]},
        },
    },
}
SPECIFICATION: dict[str, Any] = {
    "process": {
        "args": ["/bin/app", "--fast"],
        "cwd": "/srv",
        "env": ["A=1=2"],
        "noNewPrivileges": True,
        "capabilities": {"bounding": ["CAP_NET_ADMIN"]},
    },
    "mounts": [{"destination": "/data", "source": "/var/data", "options": ["rbind", "ro"]}],
    "root": {"readonly": True},
    "linux": {"resources": {"memory": {"limit": 1024}, "cpu": {"shares": 2}}},
}


def test_what_became_as_asked_is_no_difference() -> None:
    assert Inspected("id", REQUEST, SPECIFICATION).differences() == []


def test_without_a_request_nothing_differs() -> None:
    assert Inspected("id", {}, SPECIFICATION).differences() == []


@pytest.mark.parametrize(
    ("place", "value", "difference"),
    [
        ("process.args", ["/bin/sh"], Difference("args", '["/bin/app", "--fast"]', '["/bin/sh"]')),
        ("process.cwd", "/", Difference("cwd", "/srv", "/")),
        ("process.env", ["A=1=2", "B=3"], Difference("env B", "", "3")),
        ("mounts", [], Difference("mount /data", "/var/data ro", "")),
        ("linux.resources.memory", {"limit": 512}, Difference("resource memory", "1024", "512")),
        ("root.readonly", False, Difference("readonly root", "true", "false")),
        ("process.noNewPrivileges", False, Difference("no new privileges", "true", "false")),
        ("process.capabilities.bounding", [], Difference("capability NET_ADMIN", "added", "")),
        (
            "process.capabilities.bounding",
            ["CAP_NET_ADMIN", "CAP_CHOWN"],
            Difference("capability CAP_CHOWN", "dropped", "held"),
        ),
    ],
    ids=lambda value: value.what.replace(" ", "-") if isinstance(value, Difference) else "",
)
def test_what_did_not_is_told(place: str, value: Any, difference: Difference) -> None:
    assert Inspected("id", REQUEST, changed(SPECIFICATION, place.split("."), value)).differences() == [difference]


def changed(document: dict[str, Any], place: list[str], value: Any) -> dict[str, Any]:
    """The document with one value in another's place; the document itself stays as it is."""
    head, *rest = place
    return {**document, head: changed(document[head], rest, value) if rest else value}
