"""The lab itself: nodes are what kind's are, and the machine does not notice them."""

from pathlib import Path

from tests.lab import images
from tests.lab.kindnode import Cluster, Node
from tests.lab.waiting import wait_until

MACHINE_WIDE = ("fs/file-max", "fs/nr_open", "kernel/core_pattern", "kernel/panic", "vm/overcommit_memory")


def test_nodes_are_labelled_as_kind_labels_them(cluster: Cluster) -> None:
    listed = cluster.engine.docker(
        *("ps", "-a", "--filter", "label=io.x-k8s.kind.cluster=kind"),
        *("--format", '{{.Names}} {{.Label "io.x-k8s.kind.role"}}'),
    ).stdout.decode()
    assert sorted(listed.splitlines()) == ["kind-control-plane control-plane", "kind-worker worker"]


def test_a_node_has_systemd_and_containerd_and_no_python(worker: Node) -> None:
    assert worker.sh("systemctl is-system-running").strip() == "running"
    assert worker.sh("systemctl is-active containerd").strip() == "active"
    assert worker.exec("sh", "-c", "command -v python3 python perl5 crictl", check=False).stdout == ""
    assert not list(worker.path("/usr/lib").glob("python3*"))


def test_a_node_has_the_images_it_needs_offline(control_plane: Node) -> None:
    with control_plane.cri() as cri:
        tags = {tag for image in cri.call("ListImages").images for tag in image.repo_tags}
    assert tags == {images.PAUSE, images.TOOLS}


def test_nodes_reach_each_other_by_address_and_by_name(control_plane: Node, worker: Node) -> None:
    for address in (*worker.addresses, worker.name):
        # Nobody listens there: the refusal is the other node's own answer.
        said = control_plane.exec("bash", "-c", f"exec 3<>/dev/tcp/{address}/9", check=False, timeout=10).stderr
        assert "Connection refused" in said


def test_a_nodes_systemd_changes_nothing_machine_wide(cluster: Cluster) -> None:
    for name in MACHINE_WIDE:
        ours = Path("/proc/sys", name).read_text()
        for node in cluster.nodes:
            assert node.sh(f"cat /proc/sys/{name}") == ours


def test_kubelets_stand_in_talks_to_the_endpoint_of_its_configuration(worker: Node) -> None:
    worker.write("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\n")
    worker.pod_cidr("10.244.1.0/24")
    worker.sh("systemctl start kubelet")
    try:
        seen = wait_until(lambda: worker.kubelet_calls()[4:], 20, "kubelet's calls", hint=worker.last_words)
        assert {(call.method, call.status) for call in seen} <= {
            *((method, "0") for method in ("Version", "Status", "ListPodSandbox", "UpdateRuntimeConfig")),
        }
        assert {call.endpoint for call in seen} == {"unix:///run/containerd/containerd.sock"}
    finally:
        worker.sh("systemctl stop kubelet; rm -r /var/lib/kubelet/config.yaml /kind/pod-cidr")
