"""podwire-node preflight: every fault of a node by its name, all at once, and nothing is changed."""

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cni_plugin.install import __main__ as command
from cni_plugin.install import manifest, preflight, selftest
from cni_plugin.install.options import Options
from tests.installer.scratch import ALL, ScratchNode

pytestmark = pytest.mark.root
Damage = Callable[[ScratchNode], object]


def findings(node: ScratchNode, options: Options = ALL, within: Damage = lambda node: None) -> dict[str, list[str]]:
    """What is found on the node, by check; `within` is done first by the process that looks."""
    told = node.tools / "findings"
    payload = next(iter(node.places.versions.iterdir()))

    def work() -> int:
        pytest.MonkeyPatch().setattr(manifest, "own", lambda: payload)
        kept = within(node)
        found = preflight.examine(node.site(), options)
        told.write_text(json.dumps([[each.check, f"{each.severity}: {each.what} -> {each.fix}"] for each in found]))
        del kept
        return 0

    assert node.inside(work) == 0, node.said()
    shape: dict[str, list[str]] = {}
    for check, words in json.loads(told.read_text()):
        shape.setdefault(check, []).append(words)
    return shape


def errors(shape: dict[str, list[str]]) -> dict[str, list[str]]:
    found = {check: [each for each in words if each.startswith("error")] for check, words in shape.items()}
    return {check: words for check, words in found.items() if words}


@pytest.fixture(autouse=True)
def placed(scratch: ScratchNode) -> None:
    scratch.place()


def test_a_node_that_is_well_has_no_errors_and_is_not_changed(scratch: ScratchNode) -> None:
    before = scratch.picture()
    assert errors(findings(scratch)) == {}
    assert scratch.picture() == before


# Damages of the folder and the namespace.


def earlier_conflist(node: ScratchNode) -> None:
    (node.places.netd / "00-other.conflist").write_text(
        '{"cniVersion": "1.0.0", "name": "o", "plugins": [{"type": "x"}]}'
    )


def kindnet(node: ScratchNode) -> None:
    earlier_conflist(node)
    (node.places.netd / "00-other.conflist").rename(node.places.netd / "00-kindnet.conflist")


def bridge(node: ScratchNode) -> None:
    node.namespace.run(["ip", "link", "add", "cni0", "type", "bridge"])
    node.namespace.run(["ip", "address", "add", "10.244.7.1/24", "dev", "cni0"])
    node.namespace.run(["ip", "link", "set", "cni0", "up"])


def route(node: ScratchNode) -> None:
    node.namespace.run(["ip", "link", "add", "flannel.1", "type", "bridge"])
    node.namespace.run(["ip", "link", "set", "flannel.1", "up"])
    node.namespace.run(["ip", "route", "add", "10.244.7.128/25", "dev", "flannel.1"])


def runtime_says(text: str) -> Damage:
    return lambda node: node._tool("podwire-cri", f"#!/bin/sh\n{text}\n")


def containerd(version: str) -> Damage:
    answer = {"ready": True, "runtime": {"name": "containerd", "version": version}, "conditions": [], "network": {}}
    return runtime_says(f"echo '{json.dumps(answer)}'")


def no_systemd(node: ScratchNode) -> None:
    shutil.rmtree(node.root / "run/systemd")


def variable_endpoint(node: ScratchNode) -> None:
    node.places.kubelet_flags.write_text('KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=$SOCKET"\n')


def damaged_journal(node: ScratchNode) -> None:
    node.places.journal.write_text("{")


def other_machine(node: ScratchNode) -> None:
    path = next(iter(node.places.versions.iterdir())) / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"arch": "s390x"}))


DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "a conflist before ours": ("conflists", earlier_conflist, "00-other.conflist sorts before 05-podwire.conflist"),
    "kindnet before ours": ("conflists", kindnet, "./install.sh kind --replace-kindnet"),
    "a bridge with the pods' subnet": ("addresses", bridge, "cni0 has 10.244.7.1"),
    "a route into the pods' subnet": ("addresses", route, "flannel.1 has route 10.244.7.128/25 inside the pod CIDR"),
    "containerd that is too old": ("runtime", containerd("1.5.13"), "containerd is 1.5.13, and 1.6 is needed"),
    "no runtime": ("runtime", runtime_says("echo refused >&2; exit 1"), "does not answer: "),
    "a runtime that talks nonsense": ("runtime", runtime_says("echo hello"), "printed what is not understood: 'hello"),
    "no systemd": ("systemd", no_systemd, "the agent and the shim run under systemd"),
    "an endpoint in a variable": ("kubelet", variable_endpoint, "$SOCKET"),
    "a damaged journal": ("journal", damaged_journal, "install.json is damaged"),
    "another machine's payload": ("machine", other_machine, "the payload is for s390x, and this node is "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_fault_is_told_with_what_to_do(scratch: ScratchNode, damage: str) -> None:
    check, damaged, words = DAMAGES[damage]
    damaged(scratch)
    found = errors(findings(scratch))
    assert list(found) == [check]
    [told] = found[check]
    assert words in told
    assert told.partition(" -> ")[2] or check in ("kubelet", "runtime"), "what to do"


def test_every_fault_is_told_at_once_and_nothing_is_changed(scratch: ScratchNode) -> None:
    for damage in (earlier_conflist, bridge, containerd("1.5.13"), no_systemd, variable_endpoint, damaged_journal):
        damage(scratch)
    before = scratch.picture()
    assert set(errors(findings(scratch))) == {"conflists", "addresses", "runtime", "systemd", "kubelet", "journal"}
    assert scratch.picture() == before


OPTIONS: dict[str, tuple[Options, str]] = {
    "no pod CIDR": (replace(ALL, pod_cidrs=()), ""),
    "a pod CIDR that is none": (replace(ALL, pod_cidrs=("10.244.7.0/99",)), "10.244.7.0/99"),
    "two of one family": (replace(ALL, pod_cidrs=("10.244.7.0/24", "10.244.8.0/24")), ""),
    "peers without nodes": (replace(ALL, peers="x = 1\n"), "no [[node]] table"),
    "peers that are no TOML": (replace(ALL, peers="["), "no TOML"),
    "nothing": (Options(cni=False, shim=False, agent=False), "nothing is to be installed"),
}


@pytest.mark.parametrize("wrong", OPTIONS)
def test_options_that_make_no_sense_are_told_with_the_rest(scratch: ScratchNode, wrong: str) -> None:
    options, words = OPTIONS[wrong]
    damaged_journal(scratch)
    found = errors(findings(scratch, options))
    assert set(found) == {"options", "journal"}
    assert words in found["options"][0]


def test_a_taken_port_of_the_agent_is_told(scratch: ScratchNode) -> None:
    def listen(node: ScratchNode) -> socket.socket:
        return socket.create_server(("127.0.0.1", 9474))

    assert "127.0.0.1:9474" in errors(findings(scratch, within=listen))["agent-port"][0]
    assert errors(findings(scratch, replace(ALL, agent=False), listen)) == {}


def mounted(*words: str) -> Damage:
    """A mount in the looking process's own mount namespace."""

    def mount(node: ScratchNode) -> None:
        # The network namespace goes too, which does no harm: lo alone is asked for.
        selftest.unshare()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["mount", "--no-mtab", *(word.format(root=node.root) for word in words)], check=True)

    return mount


def test_a_disk_that_is_too_small_is_told(scratch: ScratchNode) -> None:
    small = mounted("-t", "tmpfs", "-o", "size=8m", "small", "{root}/opt")
    [told] = errors(findings(scratch, within=small))["disk"]
    assert "has 8 MiB free, and 400 are needed -> df -h " in told


def test_a_folder_that_cannot_be_written_is_told(scratch: ScratchNode) -> None:
    read_only = mounted("-t", "tmpfs", "-o", "ro", "etc", "{root}/etc")
    found = errors(findings(scratch, within=read_only))["disk"]
    assert f"{scratch.root}/etc cannot be written, and {scratch.places.etc} has to be" in found[0]


def test_addresses_of_other_pods_are_no_error(scratch: ScratchNode) -> None:
    scratch.namespace.run(["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"])
    scratch.namespace.run(["ip", "link", "set", "veth0", "up"])
    scratch.namespace.run(["ip", "route", "add", "10.244.7.9/32", "dev", "veth0"])
    found = findings(scratch)
    assert errors(found) == {}
    assert "1 pods of another plugin have addresses of 10.244.7.0/24" in found["addresses"][0]


def test_a_node_address_in_the_cluster_cidr_is_a_warning(scratch: ScratchNode) -> None:
    scratch.namespace.run(["ip", "link", "add", "lan", "type", "bridge"])
    scratch.namespace.run(["ip", "address", "add", "10.244.99.1/24", "dev", "lan"])
    found = findings(scratch)
    assert errors(found) == {}
    assert found["node-addresses"][0].startswith("warning: the node's own address 10.244.99.1 (lan) lies in")


def test_a_later_conflist_stays_and_is_a_note(scratch: ScratchNode) -> None:
    earlier_conflist(scratch)
    (scratch.places.netd / "00-other.conflist").rename(scratch.places.netd / "10-other.conflist")
    found = findings(scratch)
    assert errors(found) == {}
    assert "10-other.conflist stays" in found["conflists"][0]


def test_an_install_that_the_preflight_refuses_changes_nothing(scratch: ScratchNode) -> None:
    earlier_conflist(scratch)
    before = scratch.picture()
    payload = next(iter(scratch.places.versions.iterdir()))

    def work() -> int:
        patch = pytest.MonkeyPatch()
        patch.setattr(manifest, "own", lambda: payload)
        patch.setattr(command, "Site", lambda places: replace(scratch.site(), say=print))
        return command.main(["install", "--pod-cidr", "10.244.7.0/24", "--no-agent"], scratch.places)

    assert scratch.inside(work) == 1
    assert "sorts before" in scratch.said()
    assert "nothing was changed" in scratch.said()
    assert scratch.picture() == before


def test_the_verb_prints_one_document_and_ends_with_1_for_errors(scratch: ScratchNode, tmp_path: Path) -> None:
    payload = next(iter(scratch.places.versions.iterdir()))

    def run(log: Path) -> int:
        def work() -> int:
            patch = pytest.MonkeyPatch()
            patch.setattr(manifest, "own", lambda: payload)
            patch.setattr(command, "Site", lambda places: scratch.site())
            return command.main(["preflight", "--pod-cidr", "10.244.7.0/24", "--no-agent", "--json"], scratch.places)

        return scratch.inside(work, log)

    assert run(tmp_path / "well") == 0
    earlier_conflist(scratch)
    assert run(tmp_path / "damaged") == 1
    document = json.loads((tmp_path / "damaged").read_text())
    assert document["command"] == "preflight"
    assert [each["check"] for each in document["findings"] if each["severity"] == "error"] == ["conflists"]
