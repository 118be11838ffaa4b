"""The shim and the plugin joined, on real nodes: conflist, readiness and garbage."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.attachment import lease_id
from tests.lab import images
from tests.lab.containerd import ContainerdBinary
from tests.lab.node import Node, conflist
from tests.lab.waiting import wait_until

RENDERER = f"""#!/bin/sh
cd {images.REPOSITORY} && exec {sys.executable} -B -m cni_plugin.net "$@"
"""


@pytest.fixture(scope="module")
def joined(usable: ContainerdBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose shim renders the conflist, enforces readiness and collects garbage every second."""
    folder = tmp_path_factory.mktemp("joined")
    (folder / "podwire-net").write_text(RENDERER)
    (folder / "podwire-net").chmod(0o755)
    (folder / "template.conflist").write_text(json.dumps(conflist(log="none")))
    shim = f"""
renderer = "{folder}/podwire-net"
template = "{folder}/template.conflist"
ready = "enforce"
ready_seconds = 1
ready_failures = 2
gc_seconds = 1
"""
    with Node(usable, shim=shim) as node:
        yield node


def test_what_never_got_its_del_is_collected_and_what_lives_or_is_being_made_is_not(joined: Node) -> None:
    node, pod = joined, joined.run_pod("alive")
    address = node.cri.address(pod)
    for name in ("making", "dead"):
        _add(node, name)
    _end(node, "dead")
    try:
        wait_until(lambda: not _claims(node, "dead"), 20, "the dead attachment's claims to go", hint=node.explain)
        seen = len(node.shim_events("gc"))
        wait_until(lambda: len(node.shim_events("gc")) >= seen + 3, 20, "three more collections", hint=node.explain)
        assert all("code" not in each for each in node.shim_events("gc"))
        assert node.shim_events("gc")[-1]["sandboxes"] == 1
        assert _claims(node, "making"), "in no list of sandboxes, but its namespace is there"
        assert address in [claim.name for claim in _claims(node, pod.id)]
        links = node.namespace.run(["ip", "-o", "link"]).stdout
        assert lease_id("making", "eth0") in links
        assert lease_id("dead", "eth0") not in links
    finally:
        _end(node, "making")
        node.remove_pod(pod)


def test_a_list_that_fails_collects_nothing(joined: Node) -> None:
    node = joined
    _add(node, "dead")
    node.containerd.kill()
    try:
        _end(node, "dead")
        seen = len(node.shim_events("gc"))
        wait_until(lambda: _lists_fail(node, seen), 30, "the collector to miss its list", hint=node.explain)
        assert _claims(node, "dead")
    finally:
        node.containerd.start()
    wait_until(lambda: not _claims(node, "dead"), 60, "the claims to go once there are lists", hint=node.explain)


def test_status_says_that_the_plugin_cannot_serve_until_it_can(joined: Node) -> None:
    node = joined
    (node.base / "run/file").touch()
    node.write_configuration(conflist(stateDir="/run/file/podwire"))
    wait_until(lambda: not _network(node).status, 20, "NetworkReady to be false", hint=node.explain)
    assert _network(node).reason == "PodwireNotReady"
    assert "/run/file/podwire cannot be written" in _network(node).message
    node.write_configuration(conflist())
    wait_until(lambda: _network(node).status, 20, "NetworkReady to be true again", hint=node.explain)


def test_a_new_pod_gets_its_address_from_the_pod_cidr_that_kubelet_told(joined: Node) -> None:
    node = joined
    node.stop_shim()
    configuration = node.base / "shim.toml"
    place = node.base / "cni/conf/10-podwire.conflist"
    configuration.write_text(configuration.read_text() + f'conflist = "{place}"\n')
    node.start_shim()
    wait_until(lambda: node.shim_events("listening")[1:], 20, "the shim to serve", hint=node.explain)
    node.cri.call("Version", wait_for_ready=True)
    node.cri.call("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": "10.99.0.0/24"}})
    assert (node.base / "var-lib/podwire/pod-cidr").read_text() == "10.99.0.0/24\n"
    # containerd reads the folder a moment after the rename.
    wait_until(lambda: _first_address(node).startswith("10.99.0."), 20, "a pod of 10.99.0.0/24", hint=node.explain)


def _add(node: Node, name: str) -> None:
    """An attachment whose runtime was killed after ADD: a namespace, wired, that is in no list."""
    (node.base / f"run/{name}").touch()
    node.namespace.run(["unshare", f"--net=/run/{name}", "true"])
    document: dict[str, Any] = json.loads((node.base / "cni/conf/10-podwire.conflist").read_text())
    plugin = {**document["plugins"][0], "name": document["name"], "cniVersion": "1.1.0", "log": "none"}
    plugin.pop("capabilities", None)
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(node.base / "cni/bin"),
    }
    words = [f"{key}={value}" for key, value in environment.items()]
    node.namespace.run(["env", *words, node.base / "cni/bin/podwire"], input=json.dumps(plugin))


def _end(node: Node, name: str) -> None:
    node.namespace.run(["umount", f"/run/{name}"])
    (node.base / f"run/{name}").unlink()


def _claims(node: Node, container: str) -> list[Path]:
    """The claimed addresses whose content names the container."""
    return [path for path in (node.base / "run/podwire").glob("*/addresses/*") if container in _text(path)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _network(node: Node) -> Any:
    return next(each for each in node.cri.call("Status").status.conditions if each.type == "NetworkReady")


def _lists_fail(node: Node, seen: int) -> bool:
    # Two turns without a collection: one may have been on its way when containerd was killed.
    return bool(node.shim_events("gc-skipped")) and len(node.shim_events("gc")) <= seen + 1


def _first_address(node: Node) -> str:
    pod = node.run_pod("told")
    try:
        return node.cri.address(pod)
    finally:
        node.remove_pod(pod)
