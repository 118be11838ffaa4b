"""Which nodes host.sh finds, which it refuses, and its other actions: uninstall, status, rollback, wrong words."""

import pytest

from tests.installer.conftest import MakeLab
from tests.installer.hostlab import IDENTITY, HostLab

pytestmark = pytest.mark.root


def test_the_load_balancer_is_no_node(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    lab.cluster("kind-control-plane", "kind-worker")
    balancer = lab.add("kind-external-load-balancer", "external-load-balancer")
    done = lab.install()
    assert done.code == 0
    assert "cluster kind (docker): kind-control-plane kind-worker\n" in done.out
    assert balancer.calls == []
    assert not any(call.node == balancer.name for call in lab.calls)


@pytest.mark.parametrize("state", ["exited", "paused", "created"])
def test_a_node_that_does_not_run_is_refused_before_anything_is_done(lab: HostLab, state: str) -> None:
    lab.cluster("kind-control-plane")
    lab.add("kind-worker", state=state)
    done = lab.install()
    assert done.code == 1
    assert f"node kind-worker is not running but {state}" in done.err
    assert "docker start kind-worker, or leave it out with --nodes" in done.err
    assert not any(call.arguments[0] == "exec" for call in lab.calls)


def test_a_stopped_node_that_is_left_out_is_no_hindrance(lab: HostLab) -> None:
    lab.cluster("kind-control-plane")
    lab.add("kind-worker", state="exited")
    assert lab.install("--nodes", "kind-control-plane").code == 0


def test_a_name_that_is_no_node_is_told_with_those_that_are(lab: HostLab) -> None:
    lab.cluster("kind-control-plane", "kind-worker")
    done = lab.install("--nodes", "kind-worker,kind-wroker")
    assert done.code == 1
    assert "cluster kind has no node kind-wroker" in done.err
    assert "its nodes: kind-control-plane (only asked) kind-worker" in done.err


def test_a_cluster_that_is_not_there_is_told(lab: HostLab) -> None:
    lab.cluster("kind-control-plane")
    done = lab.install("--name", "other")
    assert done.code == 1
    assert "no kind cluster other was found with docker" in done.err
    assert "kind get clusters" in done.err


def test_the_first_engine_that_has_the_cluster_is_taken(make_lab: MakeLab) -> None:
    lab = make_lab("nerdctl")
    lab.cluster("kind-control-plane")
    (lab.bin / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    (lab.bin / "podman").write_text("#!/bin/sh\nexit 0\n")
    for name in ("docker", "podman"):
        (lab.bin / name).chmod(0o755)
    done = lab.install()
    assert done.code == 0
    assert "cluster kind (nerdctl): kind-control-plane" in done.out


def test_without_any_engine_on_path_it_is_told_which_are_looked_for(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    lab.cluster("kind-control-plane")
    (lab.bin / "docker").unlink()
    path = f"{lab.bin}:{lab.without_engines}"
    done = lab.install(PATH=path)
    assert done.code == 1
    assert "none of docker, podman and nerdctl is on PATH" in done.err
    done = lab.install("--provider", "docker", PATH=path)
    assert done.code == 1
    assert "docker is not on PATH" in done.err


@pytest.mark.parametrize("name", ["-worker", "--privileged", 'a"b', "a$(touch x)"])
def test_a_name_that_could_be_taken_for_something_else_is_no_node(lab: HostLab, name: str) -> None:
    lab.cluster("kind-control-plane")
    lab.add(name)
    done = lab.install()
    assert done.code == 1
    assert f"'{name}' is no name of a node" in done.err
    assert not any(call.arguments[0] == "exec" for call in lab.calls)


def test_a_file_whose_name_begins_with_a_dash_is_a_file(lab: HostLab) -> None:
    node = lab.cluster("kind-control-plane")[0]
    (lab.folder / "-p").write_text("# mine\n")
    done = lab.install("--peers", "-p")
    assert done.code == 0, done.err
    assert (node.folder / "peers-got").read_text() == "# mine\n"


@pytest.mark.parametrize("words", [[], ["--provider", "podman"]], ids=["variable", "option"])
def test_kinds_own_variable_chooses_the_engine_and_an_option_wins(lab: HostLab, words: list[str]) -> None:
    lab.add_engine("podman")
    lab.cluster("kind-control-plane")
    done = lab.install(*words, KIND_EXPERIMENTAL_PROVIDER="docker" if words else "podman")
    assert done.code == 0
    assert {call.engine for call in lab.calls} == {"podman"}


def test_the_name_may_come_from_kinds_variable(lab: HostLab) -> None:
    lab.cluster("kind-control-plane")
    done = lab.install(KIND_CLUSTER_NAME="other name")
    assert done.code == 1
    assert lab.calls[0].arguments[3] == "label=io.x-k8s.kind.cluster=other name"


def test_without_a_cluster_and_without_pod_cidrs_it_says_what_is_missing(lab: HostLab) -> None:
    node = lab.add("node-a", "control-plane")
    done = lab.install()
    assert done.code == 1
    assert "no cluster answers here, so nobody hands out pod CIDRs" in done.err
    assert "--pod-cidr CIDR" in done.err
    assert node.tree == []


def test_a_node_to_which_the_cluster_gave_no_pod_cidr_is_named(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    (nodes[0].folder / "plan").write_text("node\tkind-control-plane\t10.244.0.0/24\n")
    done = lab.install()
    assert done.code == 1
    assert "the cluster has no pod CIDR for node kind-worker" in done.err
    assert [node.tree for node in nodes] == [[], []]


def test_uninstall_asks_the_control_plane_last_and_takes_the_clusters_side_back_before_it(
    lab: HostLab, shell: str
) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    (lab.folder / "calls").unlink()
    done = lab.run("kind", "--uninstall")
    assert done.code == 0, done.err
    assert (lab.folder / "calls").read_text().splitlines() == [
        "kind-worker uninstall",
        "kind-control-plane cluster kindnet restore",
        "kind-control-plane cluster annotate --restore",
        "kind-control-plane cluster revoke",
        "kind-control-plane uninstall",
    ]
    assert [node.tree for node in nodes] == [[], []]
    assert "uninstalled: kind-control-plane kind-worker\n" in done.out


def test_uninstall_while_pods_are_left_is_unfinished_and_says_how_to_go_on(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    nodes[1].behave("uninstall", 'echo "left: shop/web (10.244.1.7)" >&2; exit 3')
    done = lab.run("kind", "uninstall", "--wait", "5")
    assert done.code == 3
    assert "    left: shop/web (10.244.1.7)\n" in done.out
    assert "[kind-worker] uninstall ... unfinished (" in done.out
    assert "--uninstall --delete-pods" in done.out
    # The agents of the nodes that still have pods may need the API.
    assert "cluster revoke" not in nodes[0].calls
    assert nodes[1].calls[-1] == "uninstall --wait 5"
    nodes[1].behave("uninstall", "")
    assert lab.run("kind", "--uninstall", "--delete-pods").code == 0
    assert [node.tree for node in nodes] == [[], []]


def test_uninstall_of_what_is_not_there_says_so(lab: HostLab) -> None:
    lab.cluster("kind-control-plane")
    done = lab.run("kind", "--uninstall")
    assert done.code == 0
    assert "nothing to do: podwire is not installed on kind-control-plane\n" in done.out


def test_a_dry_run_of_uninstall_is_passed_on(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    for node in nodes:
        node.behave("uninstall", "exit 0")
    assert lab.run("kind", "--uninstall", "--dry-run").code == 0
    assert [node.calls[-1] for node in nodes] == ["uninstall --dry-run"] * 2


def test_status_hands_every_nodes_answer_to_one_table(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install("--nodes", "kind-worker").code == 0
    done = lab.run("kind", "--status")
    assert done.code == 0
    # The fake's table is its input: a line per node, and nothing for the one without podwire.
    assert f'kind-control-plane\t\nkind-worker\t{{ "identity": "{IDENTITY}"}}\n' in done.out


def test_status_of_nodes_without_podwire(lab: HostLab) -> None:
    lab.cluster("kind-control-plane", "kind-worker")
    done = lab.run("kind", "status")
    assert (done.code, "podwire is not installed on: kind-control-plane kind-worker\n" in done.out) == (0, True)


def test_rollback_removes_what_a_killed_run_left_on_a_node(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    for node in nodes:
        for left in ("run/podwire-install/agent.kubeconfig", "opt/podwire/.incoming-1/half"):
            (node.folder / left).parent.mkdir(parents=True)
            (node.folder / left).write_text("token\n")
    assert lab.run("kind", "--rollback").code == 0
    assert [node.tree for node in nodes] == [[], []]


def test_rollback_asks_every_node(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    assert lab.run("kind", "--rollback").code == 0
    assert [node.calls[-1] for node in nodes] == ["rollback", "rollback"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["kind", "--nmae", "x"], "unknown argument --nmae"),
        (["kind", "--name"], "--name needs a value"),
        (["kind", "--name="], "--name needs a value"),
        (["node", "--name", "x"], "--name is an option of ./install.sh kind"),
        (["node", "--replace-kindnet"], "--replace-kindnet is an option of ./install.sh kind"),
        (["kind", "--kubeconfig", "x"], "--kubeconfig is an option of ./install.sh node"),
        (["kind", "--mode", "ipip"], "--mode is auto, host-gw or vxlan, not ipip"),
        (["kind", "--provider", "lxc"], "is docker, podman, nerdctl or auto, not lxc"),
        (["kind", "--status", "--uninstall"], "--status and --uninstall exclude each other"),
        (["kind", "--wait", "soon"], "--wait takes whole seconds, not soon"),
        (["kind", "--pod-cidr", "10.244.0.0"], "--pod-cidr takes a network such as 10.244.0.0/16, not 10.244.0.0"),
        (["kind", "--pod-cidr", "-x/24"], "--pod-cidr takes a network such as 10.244.0.0/16, not -x/24"),
        (["node", "--cluster-cidr", "pods"], "--cluster-cidr takes a network such as 10.244.0.0/16, not pods"),
        (["kind", "--payload", "absent"], "absent is not a file that can be read"),
        (["minikube"], "say node or kind, not minikube"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_end_with_2_and_point_at_help(lab: HostLab, words: list[str], says: str) -> None:
    done = lab.run(*words)
    assert done.code == 2
    assert says in done.err
    assert "--help" in done.err
    assert lab.calls == []
    assert done.out == ""


def test_help_names_every_option_that_is_understood(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    done = lab.run("kind", "--help")
    assert (done.code, done.err) == (0, "")
    for option in ("--status", "--uninstall", "--rollback", "--dry-run", "--cni", "--shim", "--all", "--pod-cidr"):
        assert option in done.out
