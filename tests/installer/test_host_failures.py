"""host.sh when something fails or somebody interrupts: every node as before, and said so."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.installer.hostlab import HOST, IDENTITY, PARTS, HostLab, Node, make_payload
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.root

FAIL = 'echo "no room for a conflist" >&2; exit 1'
# Held up until the lifeline ends; like podwire-node it then undoes itself. An engine passes no signal on.
HANG = 'trap "" TERM INT; touch "$NODE/reached"; cat >/dev/null; echo "lifeline gone" >&2; touch "$NODE/ended"; exit 1'


def verbs(node: Node) -> list[str]:
    """What podwire-node was asked, by its first two words where the second is no option."""
    return [" ".join(word for word in call.split()[:2] if word[0] not in "-/") for call in node.calls]


def test_a_failure_on_the_second_node_rolls_both_back(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[1].behave("install", FAIL)
    done = lab.install()
    assert done.code == 1
    assert [verbs(node)[-1] for node in nodes] == ["cluster revoke", "rollback"]
    assert [verbs(node).count("rollback") for node in nodes] == [1, 1]
    assert [node.tree for node in nodes] == [[], []]
    assert "    no room for a conflist\n" in done.out
    assert "the installation on node kind-worker failed" in done.err
    assert f"details: {lab.log}" in done.err
    assert "undone: every node is as it was" in done.out


def test_nodes_are_rolled_back_from_the_last_to_the_first(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker", "kind-worker2")
    nodes[2].behave("install", FAIL)
    lab.install()
    story = (lab.folder / "calls").read_text().splitlines()
    assert [line for line in story if "rollback" in line] == [
        "kind-worker2 rollback",
        "kind-worker rollback",
        "kind-control-plane rollback",
    ]


@pytest.mark.parametrize(
    "verb", ["place", "install", "cluster-ready", "cluster-annotate", "smoke-start", "smoke-check"]
)
def test_whatever_fails_nothing_is_left(lab: HostLab, verb: str) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    for node in nodes:
        if verb != "place" or node is nodes[1]:
            node.behave(verb, FAIL)
    done = lab.install("--all")
    assert done.code == 1
    assert [node.tree for node in nodes] == [[], []]
    assert "undone: every node is as it was" in done.out
    assert not any("commit" in call for node in nodes for call in node.calls)


def test_what_is_tested_is_kept_also_when_a_node_cannot_close_its_transaction(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[0].behave("commit", FAIL)
    done = lab.install()
    assert done.code == 1
    assert "everything is installed, but 1 of the nodes could not close their transaction" in done.err
    assert "podwire-node commit on those nodes" in done.err
    assert [verbs(node)[-1] for node in nodes] == ["commit", "commit"]
    assert not any("rollback" in verbs(node) for node in nodes)


def test_test_pods_are_removed_when_a_check_fails(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[0].behave("smoke-check", FAIL)
    assert lab.install().code == 1
    assert [verbs(node).count("smoke stop") for node in nodes] == [1, 1]


def test_a_failed_upgrade_keeps_the_version_that_was_there(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    before = [node.tree for node in nodes]
    make_payload(lab.payload, "0.2.0-ba9876543210")
    nodes[1].behave("install", FAIL)
    for node in nodes:
        node.behave("rollback", f'ln -sfn "versions/{IDENTITY}" /opt/podwire/current; exit 0')
    assert lab.install().code == 1
    assert [node.tree for node in nodes] == before


def test_a_node_that_cannot_be_rolled_back_keeps_what_it_runs_and_is_named(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[1].behave("install", FAIL)
    nodes[0].behave("rollback", 'echo "systemctl: failed" >&2; exit 1')
    done = lab.install()
    assert done.code == 1
    assert "[kind-control-plane] roll back ... failed (" in done.out
    assert "not everything could be undone: ./install.sh kind --name kind --provider docker --rollback" in done.out
    assert f"opt/podwire/versions/{IDENTITY}" in nodes[0].tree
    assert nodes[1].tree == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_during_the_installation_rolls_all_nodes_back(
    lab: HostLab, shell: str, number: signal.Signals, code: int
) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[1].behave("install", HANG)
    done = lab.interrupted(number, nodes[1].folder / "reached")
    assert done.code == code
    assert (nodes[1].folder / "ended").exists(), "the lifeline ended it, before anything was rolled back"
    assert [verbs(node).count("rollback") for node in nodes] == [1, 1]
    assert [node.tree for node in nodes] == [[], []]
    # Who hung up reads nothing any more: then the log tells.
    assert "undone: every node is as it was" in (lab.log.read_text() if number == signal.SIGHUP else done.out)
    assert list((lab.folder / "tmp").iterdir()) == []


def test_ctrl_c_at_the_terminal_goes_to_all_processes_and_still_rolls_back(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[1].behave("install", HANG)
    with lab.start("kind", "--payload", lab.payload.name) as process:
        wait_until((nodes[1].folder / "reached").exists, 20, "the second node's installation")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert [node.tree for node in nodes] == [[], []]


def test_a_signal_while_the_payload_is_pushed_leaves_nothing(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    node = lab.cluster("kind-control-plane")[0]
    (node.folder / "bin" / "tar").write_text('#!/bin/sh\ntouch "$NODE/reached"\nexec sleep 2\n')
    (node.folder / "bin" / "tar").chmod(0o755)
    done = lab.interrupted(signal.SIGTERM, node.folder / "reached")
    assert done.code == 143
    assert node.tree == []


def test_a_node_whose_disk_is_full_is_told_and_left_as_it_was(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    opt = nodes[1].folder / "opt"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", opt], check=True)
    try:
        (opt / "ballast").write_bytes(bytes(8192))
        done = lab.install()
        assert nodes[1].tree == ["opt/ballast"]
    finally:
        subprocess.run(["umount", opt], check=True)
    assert done.code == 1
    assert "No space left on device" in done.err
    assert "the payload could not be unpacked on node kind-worker" in done.err
    assert "df -h /opt/podwire on the node" in done.err
    assert nodes[0].tree == []
    assert not any(node.calls for node in nodes)


def test_when_host_sh_is_killed_the_node_undoes_itself(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    node = lab.cluster("kind-control-plane")[0]
    node.behave("install", HANG)
    with lab.start("kind", "--payload", lab.payload.name) as process:
        wait_until((node.folder / "reached").exists, 20, "the node's installation")
        process.kill()
        process.wait(timeout=20)
        wait_until((node.folder / "ended").exists, 20, "the lifeline's end to reach the node")
        # Its output pipes are held by what it started, which ends now.
        process.communicate(timeout=20)


def test_after_a_kill_the_next_run_takes_the_lock_over(lab: HostLab) -> None:
    node = lab.cluster("kind-control-plane")[0]
    node.behave("install", HANG)
    with lab.start("kind", "--payload", lab.payload.name) as process:
        wait_until((node.folder / "reached").exists, 20, "the node's installation")
        process.kill()
        process.communicate(timeout=20)
    (node.folder / "behave" / "install").unlink()
    done = lab.install()
    assert done.code == 0, done.err


def test_two_runs_on_one_cluster_exclude_each_other(lab: HostLab) -> None:
    node = lab.cluster("kind-control-plane")[0]
    node.behave("install", HANG)
    with lab.start("kind", "--payload", lab.payload.name) as process:
        wait_until((node.folder / "reached").exists, 20, "the node's installation")
        second = lab.install()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert second.code == 1
    assert f"another installation runs on it (process {process.pid})" in second.err
    assert process.returncode == 143


def test_faults_of_all_nodes_are_told_together_and_nothing_is_changed(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker", "kind-worker2")
    nodes[0].behave("preflight", 'echo "error: nft is not installed" >&2; exit 1')
    nodes[2].behave("preflight", 'echo "error: ip_forward is 0" >&2; exit 1')
    done = lab.install()
    assert done.code == 1
    assert "    error: nft is not installed\n" in done.out
    assert "    error: ip_forward is 0\n" in done.out
    assert "preflight found faults on 2 of the nodes, and nothing was changed" in done.err
    assert [node.tree for node in nodes] == [[], [], []]
    assert not any(verb in ("place", "install", "rollback", "cluster grant") for node in nodes for verb in verbs(node))


def test_a_dry_run_tells_faults_too(lab: HostLab) -> None:
    node = lab.cluster("kind-control-plane")[0]
    node.behave("preflight", 'echo "error: nft is not installed" >&2; exit 1')
    done = lab.install("--dry-run")
    assert done.code == 1
    assert "would install" in done.out
    assert node.tree == []


def test_kindnet_comes_back_when_the_installation_fails(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[1].behave("install", FAIL)
    assert lab.install("--replace-kindnet").code == 1
    calls = verbs(nodes[0])
    assert calls.index("cluster kindnet") < calls.index("install")
    assert [call for call in nodes[0].calls if "kindnet" in call] == [
        "cluster kindnet remove",
        "cluster kindnet restore",
    ]


def test_access_that_was_there_before_is_not_taken_back(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[0].behave("cluster-grant", 'if [ "$3" = --check ]; then echo present; exit 0; fi')
    nodes[1].behave("install", FAIL)
    assert lab.install().code == 1
    assert "cluster revoke" not in verbs(nodes[0])


def test_a_pipe_that_nobody_reads_any_more_is_no_reason_to_stay_half_installed(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    nodes[1].behave("install", 'touch "$NODE/reached"; while [ ! -e "$NODE/go" ]; do sleep 0.1; done; exit 1')
    with lab.start("kind", "--payload", lab.payload.name) as process:
        wait_until((nodes[1].folder / "reached").exists, 20, "the second node's installation")
        assert process.stdout is not None
        process.stdout.close()
        (nodes[1].folder / "go").write_text("")
        assert process.stderr is not None
        process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode in (1, 141)
    assert [node.tree for node in nodes] == [[], []]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no archive", "is no payload: its first name is ''"), (None, "is not a file that can be read")],
    ids=["rubbish", "absent"],
)
def test_what_is_no_payload_is_told_before_anything_is_pushed(lab: HostLab, content: bytes | None, says: str) -> None:
    node = lab.cluster("kind-control-plane")[0]
    lab.payload.unlink()
    if content is not None:
        lab.payload.write_bytes(content)
    done = lab.install()
    assert done.code == (2 if content is None else 1)
    assert says in done.err
    assert node.tree == []


def test_a_node_without_a_payload_for_its_architecture_is_told_how_to_get_one(lab: HostLab) -> None:
    lab.cluster("kind-control-plane")
    (lab.nodes_folder / "kind-control-plane" / "bin" / "uname").write_text("#!/bin/sh\necho aarch64\n")
    done = lab.install()
    assert done.code == 1
    assert "node kind-control-plane is arm64, and no --payload is for it" in done.err
    assert "--payload podwire-VERSION-arm64.tar.gz" in done.err


def test_on_a_mac_the_error_says_where_a_payload_can_be_built(lab: HostLab, tmp_path: Path) -> None:
    lab.cluster("kind-control-plane")
    checkout = tmp_path / "a checkout" / "cni_plugin" / "install"
    shutil.copytree(PARTS, checkout / "host")
    shutil.copy(HOST, checkout)
    (lab.bin / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (lab.bin / "uname").chmod(0o755)
    done = subprocess.run(
        ["bash", str(checkout / "host.sh"), "kind"], env=lab.environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "a payload is built on Linux, and this is Darwin" in done.stderr
    assert "./install.sh build --payload --arch amd64 in a Debian 12 machine or container" in done.stderr
