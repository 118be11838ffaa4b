"""podwire-node cluster against a kubectl that keeps objects in a folder: what it changes, and that it comes back."""

import json
from pathlib import Path

import pytest
import yaml

from cni_plugin.install import cluster_access, cluster_kept, cluster_nodes
from cni_plugin.install.kubectl import Kubectl, KubectlError
from cni_plugin.install.places import Places
from cni_plugin.install.site import NodeError
from tests.installer.cluster_lab import ClusterLab
from tests.installer.kubectl_stand_in import TOKEN

CRI_SOCKET = "kubeadm.alpha.kubernetes.io/cri-socket"
CONTAINERD = "unix:///run/containerd/containerd.sock"
SHIM = "unix:///run/podwire/cri.sock"
KINDNET = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {
        "namespace": "kube-system",
        "labels": {"app": "kindnet"},
        "uid": "0b5f",
        "resourceVersion": "311",
        "generation": 1,
        "managedFields": [{"manager": "kubectl"}],
    },
    "spec": {"selector": {"matchLabels": {"app": "kindnet"}}, "template": {"spec": {"hostNetwork": True}}},
    "status": {"numberReady": 2},
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterLab:
    return ClusterLab(tmp_path, monkeypatch)


def kubectl(lab: ClusterLab) -> Kubectl:
    return Kubectl(lab.places.at("/etc/kubernetes/admin.conf"))


# --- plan


def test_plan_lists_pod_cidrs_of_both_families(lab: ClusterLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.node("kind-control-plane", ["10.244.0.0/24", "fd00:10:244::/64"])
    lab.node("kind-worker", ["10.244.1.0/24", "fd00:10:244:1::/64"], ready="False")
    lab.put(
        "configmap",
        "kubeadm-config",
        data={"ClusterConfiguration": "networking:\n  podSubnet: 10.244.0.0/16,fd00:10:244::/56\n"},
    )
    assert lab.run("plan") == 0
    assert json.loads(capsys.readouterr().out) == {
        "nodes": [
            {
                "name": "kind-control-plane",
                "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"],
                "addresses": ["172.18.0.2"],
                "ready": True,
            },
            {
                "name": "kind-worker",
                "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
                "addresses": ["172.18.0.2"],
                "ready": False,
            },
        ],
        "clusterCIDRs": ["10.244.0.0/16", "fd00:10:244::/56"],
    }


def test_plan_for_a_shell_has_a_line_per_node_and_leaves_out_who_has_no_cidr(
    lab: ClusterLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.node("a", ["10.244.0.0/24", "fd00::/64"])
    lab.node("b", [])
    lab.put("configmap", "kubeadm-config", data={"ClusterConfiguration": "networking: {podSubnet: 10.244.0.0/16}"})
    assert lab.run("plan", "--text") == 0
    assert capsys.readouterr().out == "node\ta\t10.244.0.0/24,fd00::/64\ncluster\t10.244.0.0/16\n"


def test_without_kubeadms_note_the_controller_managers_flag_tells(lab: ClusterLab) -> None:
    lab.put(
        "pod",
        "kube-controller-manager-kind",
        metadata={"labels": {"component": "kube-controller-manager"}},
        spec={"containers": [{"command": ["kube-controller-manager", "--cluster-cidr=10.1.0.0/16", "--v=2"]}]},
    )
    assert cluster_nodes.cluster_cidrs(kubectl(lab)) == ["10.1.0.0/16"]


@pytest.mark.parametrize("text", ["networking: {", "[]", "networking: {podSubnet: ''}"])
def test_a_note_that_says_nothing_is_no_fault(lab: ClusterLab, text: str) -> None:
    lab.put("configmap", "kubeadm-config", data={"ClusterConfiguration": text})
    assert cluster_nodes.cluster_cidrs(kubectl(lab)) == []


def test_split_gives_each_node_its_share_in_order() -> None:
    found = cluster_nodes.split(["10.244.0.0/16", "fd00:10:244::/56"], ["a", "b", "c"])
    assert cluster_nodes.as_lines(found).splitlines() == [
        "node\ta\t10.244.0.0/24,fd00:10:244::/64",
        "node\tb\t10.244.1.0/24,fd00:10:244:1::/64",
        "node\tc\t10.244.2.0/24,fd00:10:244:2::/64",
        "cluster\t10.244.0.0/16",
        "cluster\tfd00:10:244::/56",
    ]


def test_a_cidr_that_is_a_share_already_stays_whole() -> None:
    assert cluster_nodes.split(["10.244.7.0/25"], ["a"])["nodes"] == [{"name": "a", "podCIDRs": ["10.244.7.0/25"]}]


@pytest.mark.parametrize(
    ("cidrs", "says"),
    [
        (["10.244.0.0/24"], "has room for 1 nodes with a /24 each, and there are 2"),
        (["10.244.0.1/16"], "has host bits set"),
        (["ten"], "does not appear to be an IPv4 or IPv6 network"),
        (["10.1.0.0/16", "10.2.0.0/16"], "two pod CIDRs of one family"),
    ],
)
def test_what_cannot_be_split_is_told(cidrs: list[str], says: str) -> None:
    with pytest.raises(NodeError, match=says):
        cluster_nodes.split(cidrs, ["a", "b"])


# --- grant and revoke


def test_grant_makes_the_access_waits_for_its_token_and_prints_a_kubeconfig(
    lab: ClusterLab, capsys: pytest.CaptureFixture[str]
) -> None:
    (lab.state / "token-after").write_text("2")
    assert lab.run("grant", "--check") == 0
    assert capsys.readouterr().out == "absent\n"
    assert lab.run("grant") == 0
    said = capsys.readouterr()
    config = yaml.safe_load(said.out)
    assert config["clusters"][0]["cluster"] == {
        "server": "https://kind-control-plane:6443",
        "certificate-authority-data": "Q0E=",
    }
    assert config["users"] == [{"name": "podwire-agent", "user": {"token": TOKEN}}]
    assert config["current-context"] == config["contexts"][0]["name"]
    assert "c2VjcmV0" not in said.out.replace(TOKEN, ""), "nothing of the administrator's"
    assert TOKEN not in said.err
    assert lab.run("grant", "--check") == 0
    assert capsys.readouterr().out == "present\n"
    assert lab.run("grant") == 0
    assert capsys.readouterr().out == said.out, "the same access is the same text"


def test_the_granted_access_is_list_and_watch_of_nodes_alone(lab: ClusterLab) -> None:
    assert lab.run("grant") == 0
    role = lab.object("clusterrole", "podwire-agent")
    assert role is not None
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]


def test_revoke_takes_everything_away_and_is_happy_without(lab: ClusterLab) -> None:
    assert lab.run("grant") == 0
    assert lab.run("revoke") == 0
    assert [
        path
        for kind in ("serviceaccount", "clusterrole", "clusterrolebinding", "secret")
        for path in (lab.state / kind).iterdir()
    ] == []
    assert lab.run("revoke") == 0


def test_a_token_that_never_comes_is_told_with_who_makes_it(lab: ClusterLab) -> None:
    (lab.state / "token-after").write_text("1000")
    with pytest.raises(NodeError, match=r"the secret kube-system/podwire-agent got no token within 0\.3 s") as told:
        cluster_access.grant(kubectl(lab), seconds=0.3)
    assert "kube-controller-manager" in told.value.details


# --- ready


def test_ready_waits_until_every_node_is(lab: ClusterLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.node("a", ["10.244.0.0/24"])
    assert lab.run("ready", "--wait", "0") == 0
    lab.node("b", ["10.244.1.0/24"], ready="False")
    assert lab.run("ready", "--wait", "0") == 1
    said = capsys.readouterr().err
    assert "waiting for b\n" in said
    assert "not Ready within 0 s: b (KubeletNotReady: cni not initialized)" in said
    assert lab.run("ready", "--wait", "0", "--node", "a") == 0


def test_ready_knows_a_node_that_the_cluster_does_not(lab: ClusterLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.node("a", ["10.244.0.0/24"])
    assert lab.run("ready", "--wait", "0", "--node", "a", "--node", "z") == 1
    assert "z (the cluster does not know it)" in capsys.readouterr().err


# --- annotate


def test_the_note_of_the_endpoint_changes_where_there_is_one_and_comes_back(lab: ClusterLab) -> None:
    lab.node("old", [], annotations={CRI_SOCKET: CONTAINERD})
    lab.node("new", [])
    for name in ("old", "new"):
        assert lab.run("annotate", name, SHIM) == 0
    assert [(lab.object("node", name) or {})["metadata"].get("annotations") for name in ("old", "new")] == [
        {CRI_SOCKET: SHIM},
        None,
    ]
    # Once more must not take the shim's for the original.
    assert lab.run("annotate", "old", SHIM) == 0
    assert lab.run("annotate", "--restore") == 0
    assert (lab.object("node", "old") or {})["metadata"]["annotations"] == {CRI_SOCKET: CONTAINERD}
    assert not lab.places.lib.exists(), "nothing is kept any more"
    assert lab.run("annotate", "--restore") == 0


def test_a_node_that_has_left_is_no_hindrance(lab: ClusterLab) -> None:
    lab.node("old", [], annotations={CRI_SOCKET: CONTAINERD})
    assert lab.run("annotate", "old", SHIM) == 0
    (lab.state / "node" / "old.json").unlink()
    assert lab.run("annotate", "--restore") == 0


# --- kindnet


def test_kindnet_steps_aside_and_comes_back_without_what_the_api_had_added(
    lab: ClusterLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.put("daemonset", "kindnet", **json.loads(json.dumps(KINDNET)))
    lab.put("pod", "kindnet-x", metadata={"labels": {"app": "kindnet"}})
    lab.put("pod", "coredns", metadata={"labels": {"app": "dns"}})
    assert lab.run("kindnet", "remove") == 0
    assert capsys.readouterr().out == "removed\n"
    assert lab.object("daemonset", "kindnet") is None
    assert (lab.object("pod", "kindnet-x"), lab.object("pod", "coredns") is None) == (None, False)
    assert lab.run("kindnet", "remove") == 0
    assert capsys.readouterr().out == "absent\n"
    assert lab.run("kindnet", "restore") == 0
    assert capsys.readouterr().out == "restored\n"
    back = lab.object("daemonset", "kindnet") or {}
    assert back["spec"] == KINDNET["spec"]
    assert back["metadata"] == {"name": "kindnet", "namespace": "kube-system", "labels": {"app": "kindnet"}}
    assert "status" not in back
    assert lab.run("kindnet", "restore") == 0
    assert capsys.readouterr().out == "nothing kept\n"
    assert not lab.places.lib.exists()


def test_kindnets_pods_that_stay_are_named(lab: ClusterLab) -> None:
    lab.put("daemonset", "kindnet", **json.loads(json.dumps(KINDNET)))
    lab.put("pod", "kindnet-x", metadata={"labels": {"app": "kindnet"}})
    (lab.state / "gone-after").write_text("1000")
    with pytest.raises(NodeError, match=r"did not go within 0\.2 s: kindnet-x"):
        cluster_kept.kindnet_remove(kubectl(lab), cluster_kept.Kept(lab.places, "kindnet.json"), seconds=0.2)


def test_the_manifest_is_kept_before_anything_is_deleted(lab: ClusterLab) -> None:
    lab.put("daemonset", "kindnet", **json.loads(json.dumps(KINDNET)))
    lab.places.originals.parent.mkdir(parents=True)
    lab.places.originals.write_text("in the way")
    assert lab.run("kindnet", "remove") == 1
    assert lab.object("daemonset", "kindnet") is not None


# --- failures


def test_a_failing_kubectl_is_told_with_its_command_and_its_last_line(
    lab: ClusterLab, capsys: pytest.CaptureFixture[str]
) -> None:
    (lab.state / "fault").write_text("E1125 memcache.go:265\nThe connection to the server was refused\n")
    assert lab.run("plan") == 1
    said = capsys.readouterr().err
    assert "`kubectl get nodes -o json` failed: The connection to the server was refused" in said
    assert "-> on this node: kubectl --kubeconfig" in said


def test_a_kubectl_that_hangs_is_ended(lab: ClusterLab) -> None:
    lab.kubectl.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(KubectlError, match=r"`kubectl get nodes -o json` did not end within 0\.2 s"):
        Kubectl(Path("admin.conf"), seconds=0.2).items("nodes")


@pytest.mark.parametrize("answer", ["", "[]", "not json"])
def test_an_answer_that_is_no_object_is_told(lab: ClusterLab, answer: str) -> None:
    lab.kubectl.write_text(f"#!/bin/sh\necho '{answer}'\n")
    with pytest.raises(KubectlError, match="answered no"):
        kubectl(lab).json("get", "nodes")


def test_without_kubectl_it_says_where_to_run_this() -> None:
    with pytest.raises(KubectlError, match="kubectl-absent cannot be run: No such file or directory") as told:
        Kubectl(Path("admin.conf"), program="kubectl-absent").items("nodes")
    assert "control-plane node" in told.value.details


def test_on_a_worker_it_says_where_to_run_this(
    tmp_path: Path, lab: ClusterLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.places = Places(tmp_path / "worker")
    assert lab.run("plan") == 1
    assert "admin.conf is not there -> run this on a control-plane node" in capsys.readouterr().err


def test_every_call_has_a_bound_and_the_nodes_own_kubeconfig(lab: ClusterLab) -> None:
    lab.node("a", [])
    assert lab.run("plan") == 0
    for line in (lab.state / "calls").read_text().splitlines():
        words = json.loads(line)
        assert words[0] == f"--kubeconfig={lab.places.at('/etc/kubernetes/admin.conf')}"
        assert words[1] == "--request-timeout=15s"
