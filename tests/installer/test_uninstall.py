"""podwire-node uninstall: pods are never left without what ends them, and what somebody changed is never lost."""

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from cni_plugin.install import __main__ as command
from cni_plugin.install import rollback, status, uninstall
from cni_plugin.install.journal import Journal
from tests.installer.scratch import ALL, PLAIN, ScratchNode
from tests.installer.test_install import commit, install, roll_back, without_run

pytestmark = pytest.mark.root
OTHER = {"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge"}]}


def remove(node: ScratchNode, *, delete_pods: bool = False, seconds: float = 0, dry_run: bool = False) -> int:
    def work() -> int:
        site = dataclasses.replace(node.site(), say=print)
        return uninstall.uninstall(site, seconds, delete_pods=delete_pods, dry_run=dry_run)

    return node.inside(work)


def installed(node: ScratchNode, *, pods: int = 0) -> dict[str, str]:
    """Install the plugin and attach pods; what the node was before."""
    before = node.picture()
    assert install(node, node.place(), PLAIN) == 0, node.said()
    assert commit(node) == 0
    for number in range(pods):
        node.attach(f"pod-{number}")
    return before


def test_pods_keep_the_plugin_and_the_next_uninstall_goes_on(scratch: ScratchNode) -> None:
    before = installed(scratch, pods=2)
    assert remove(scratch) == uninstall.UNFINISHED
    assert "2 pods still have the network" in scratch.said()
    assert scratch.places.executable.exists()
    assert "withdrawn" in scratch.places.conflist.read_text()
    assert Journal(scratch.places).load().document["removing"]
    assert remove(scratch, delete_pods=True, seconds=5) == 0, scratch.said()
    assert scratch.picture() == before


def test_a_withdrawn_network_gives_no_pod_an_address(scratch: ScratchNode) -> None:
    installed(scratch, pods=1)
    assert remove(scratch) == uninstall.UNFINISHED
    with pytest.raises(AssertionError, match="podwire is being removed from this node"):
        scratch.attach("late")
    assert remove(scratch, delete_pods=True, seconds=5) == 0, scratch.said()


def test_where_another_network_is_the_conflist_goes_at_once(scratch: ScratchNode) -> None:
    (scratch.places.netd / "10-other.conflist").write_text(json.dumps(OTHER))
    before = installed(scratch, pods=1)
    assert remove(scratch) == uninstall.UNFINISHED
    assert not scratch.places.conflist.exists()
    scratch.pods.close()
    assert remove(scratch, seconds=5) == 0, scratch.said()
    assert scratch.picture() == before


def test_an_install_takes_an_unfinished_uninstall_back(scratch: ScratchNode) -> None:
    installed(scratch, pods=1)
    assert remove(scratch) == uninstall.UNFINISHED
    assert install(scratch, scratch.place(), PLAIN) == 0, scratch.said()
    assert commit(scratch) == 0
    assert "withdrawn" not in scratch.places.conflist.read_text()
    scratch.attach("after")
    assert remove(scratch, delete_pods=True, seconds=5) == 0, scratch.said()


def test_a_dry_run_tells_and_changes_nothing(scratch: ScratchNode) -> None:
    installed(scratch, pods=1)
    before = scratch.picture()
    assert remove(scratch, dry_run=True) == 0
    assert f"would undo: {scratch.places.conflist}" in scratch.said()
    assert "would wait for 1 pods" in scratch.said()
    assert {name for name, what in scratch.picture().items() if before.get(name) != what} <= {str(scratch.places.lock)}
    assert remove(scratch, delete_pods=True, seconds=5) == 0


def test_where_nothing_is_installed_there_is_nothing_to_do(scratch: ScratchNode) -> None:
    before = scratch.picture()
    assert remove(scratch) == 0
    assert scratch.picture() == before


@pytest.mark.parametrize("record", ["{", '{"schema": 99}', "", None], ids=["cut off", "of the future", "empty", "gone"])
def test_without_a_readable_record_what_is_podwires_goes(scratch: ScratchNode, record: str | None) -> None:
    before = without_run(scratch.picture())
    assert install(scratch, scratch.place(), ALL) == 0, scratch.said()
    assert commit(scratch) == 0
    if record is None:
        scratch.places.journal.unlink()
    else:
        scratch.places.journal.write_text(record)
    assert remove(scratch) == 0, scratch.said()
    after = without_run(scratch.picture())
    kubelets = {name for name in before if "/var/lib/kubelet/" in name or name.endswith("crictl.yaml")}
    forward = str(scratch.places.sysctls / "net/ipv4/ip_forward")
    left = {name for name in before | after if before.get(name) != after.get(name)}
    folders = {str(scratch.places.cni_bin), str(scratch.places.cni_bin.parent), str(scratch.places.units)}
    folders |= {str(scratch.places.units.parent)}
    assert left <= kubelets | folders | {forward}, "only what the record alone knows"
    assert str(scratch.places.shim_socket) not in scratch.places.kubelet_config.read_text()
    assert "disable --now podwire-shim.service" in scratch.calls.read_text()


# What somebody changed meanwhile.


def conflist(node: ScratchNode) -> None:
    node.places.conflist.write_text(node.places.conflist.read_text().replace("10.244.7.0", "10.244.8.0"))


def unit(node: ScratchNode) -> None:
    node.places.unit("podwire-agent.service").write_text("# mine\n")


def configuration(node: ScratchNode) -> None:
    node.places.agent_config.write_text("# mine\n")


CHANGES: dict[str, tuple[Callable[[ScratchNode], None], str]] = {
    "conflist": (conflist, "etc/cni/net.d/05-podwire.conflist"),
    "unit": (unit, "etc/systemd/system/podwire-agent.service"),
    "configuration": (configuration, "etc/podwire/agent.toml"),
}


@pytest.mark.parametrize("how", ["uninstall", "rollback"])
@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_somebody_changed_is_kept_beside(scratch: ScratchNode, what: str, how: str) -> None:
    change, name = CHANGES[what]
    before = scratch.picture()
    assert install(scratch, scratch.place(), replace(ALL, shim=False)) == 0, scratch.said()
    if how == "uninstall":
        assert commit(scratch) == 0
    change(scratch)
    theirs = (scratch.root / name).read_bytes()
    assert (remove if how == "uninstall" else roll_back)(scratch) == 0, scratch.said()
    kept = scratch.root / f"{name}.podwire-kept"
    assert kept.read_bytes() == theirs
    assert f"kept as {kept}" in scratch.said()
    folders = {str(folder) for folder in kept.parents}
    assert {each for each, is_ in scratch.picture().items() if before.get(each) != is_} <= {str(kept)} | folders


def test_kubelets_files_keep_what_an_upgrade_of_it_changed(scratch: ScratchNode) -> None:
    assert install(scratch, scratch.place(), ALL) == 0, scratch.said()
    assert commit(scratch) == 0
    path = scratch.places.kubelet_config
    path.write_text(path.read_text() + "maxPods: 17\n")
    assert remove(scratch) == 0, scratch.said()
    text = path.read_text()
    assert "maxPods: 17" in text
    assert str(scratch.places.shim_socket) not in text


def test_settings_and_files_of_others_stay(scratch: ScratchNode) -> None:
    installed(scratch)
    (scratch.places.sysctls / "net/ipv4/ip_forward").write_text("2")
    (scratch.places.etc / "mine").write_text("")
    scratch.places.executable.unlink()
    scratch.places.executable.write_text("somebody's")
    assert remove(scratch) == 0, scratch.said()
    assert (scratch.places.sysctls / "net/ipv4/ip_forward").read_text() == "2"
    assert (scratch.places.etc / "mine").exists()
    assert scratch.places.executable.with_name("podwire.podwire-kept").read_text() == "somebody's"
    assert "net.ipv4.ip_forward stays 2" in scratch.said()


def test_a_plugin_that_was_there_before_comes_back(scratch: ScratchNode) -> None:
    scratch.places.cni_bin.mkdir(parents=True)
    scratch.places.executable.write_text("#!/bin/sh\n")
    scratch.places.executable.chmod(0o700)
    os.utime(scratch.places.executable, (1e9, 1e9))
    before = scratch.picture()
    assert install(scratch, scratch.place(), PLAIN) == 0, scratch.said()
    assert commit(scratch) == 0
    assert scratch.places.executable.is_symlink()
    assert remove(scratch) == 0
    assert scratch.picture() == before
    assert scratch.places.executable.stat().st_mtime == 1e9


def test_a_step_that_cannot_be_undone_keeps_no_other_from_it_and_can_be_tried_again(scratch: ScratchNode) -> None:
    before = scratch.picture()
    assert install(scratch, scratch.place(), PLAIN) == 0
    kept = scratch.places.command("podwire-net")
    kept.unlink()
    kept.mkdir()
    assert roll_back(scratch) == 1
    assert f"NOT undone: {kept}: {kept} is neither a file nor a link: move it away" in scratch.said()
    assert not scratch.places.conflist.exists()
    kept.rmdir()
    assert roll_back(scratch) == 0, scratch.said()
    assert scratch.picture() == before


# status.


def test_status_tells_what_is_installed_and_is_well_only_then(scratch: ScratchNode) -> None:
    def told() -> dict[str, object]:
        path = scratch.tools / "status"

        def work() -> int:
            shape = status.document(scratch.site())
            path.write_text(json.dumps(shape | {"well": status.is_well(shape), "lines": status.lines(shape)}))
            return 0

        assert scratch.inside(work) == 0, scratch.said()
        found: dict[str, object] = json.loads(path.read_text())
        return found

    nothing = told()
    assert (nothing["installed"], nothing["well"]) == (None, False)
    payload = scratch.place()
    assert install(scratch, payload, PLAIN) == 0
    open_ = told()
    assert "complete, not committed" in str(open_["transaction"])
    assert commit(scratch) == 0
    scratch.attach("pod")
    shape = told()
    assert (shape["installed"], shape["current"], shape["well"]) == (payload.identity, payload.identity, True)
    assert (shape["conflistOwner"], shape["transaction"], shape["busy"]) == ("installer", None, None)
    assert "claims: 1 attachments, 0 hostPorts" in shape["lines"]  # type: ignore[operator]
    scratch.places.journal.write_text("{")
    damaged = told()
    assert "is damaged" in str(damaged["fault"])
    assert not damaged["well"]
    assert remove(scratch, delete_pods=True, seconds=5) == 0, scratch.said()


def test_a_commit_needs_something_to_commit(scratch: ScratchNode) -> None:
    before = scratch.picture()
    assert scratch.inside(lambda: command.main(["commit"], scratch.places)) == 1
    assert "there is nothing to commit" in scratch.said()
    assert scratch.inside(lambda: rollback.rollback(scratch.site())) == 0
    assert scratch.picture() == before
