"""An installation on the nodes of a kind cluster, as host.sh runs it: every command line, on every engine and shell."""

import pytest

from tests.installer.conftest import MakeLab
from tests.installer.hostlab import IDENTITY, TOKEN, HostLab, make_payload, of_node

pytestmark = pytest.mark.root

VERSION = f"/opt/podwire/versions/{IDENTITY}/bin/podwire-node"
INCOMING = f"/opt/podwire/.incoming-{IDENTITY}"
UNPACKED = f"{INCOMING}/{IDENTITY}/bin/podwire-node"


@pytest.mark.parametrize("engine", ["docker", "podman", "nerdctl"])
def test_an_installation_asks_the_engine_exactly_this(make_lab: MakeLab, engine: str, shell: str) -> None:
    lab = make_lab(engine, shell)
    lab.cluster("kind-control-plane", "kind-worker")
    done = lab.install("--provider", engine)
    assert (done.code, done.err) == (0, "")
    listing, *_ = lab.calls
    assert listing.arguments == (
        *("ps", "-a", "--filter", "label=io.x-k8s.kind.cluster=kind"),
        *("--format", "{{.Names}}"),
    )
    assert {call.engine for call in lab.calls} == {engine}
    assert {call.arguments[:2] for call in lab.calls if call.arguments[0] not in ("ps", "inspect")} == {("exec", "-i")}
    options = ("--pod-cidr", "10.244.1.0/24", "--cluster-cidr", "10.244.0.0/16", "--cni", "--node-name", "kind-worker")
    commands = of_node(lab.calls, "kind-worker")
    assert [command for command in commands if command[0] != "sh"] == [
        ("uname", "-m"),
        ("test", "-x", VERSION),
        ("test", "-d", "/opt/podwire"),
        (UNPACKED, "preflight", *options),
        (UNPACKED, "place", f"{INCOMING}/{IDENTITY}"),
        (
            *(VERSION, "install", "--wait-lifeline", *options),
            *("--kubeconfig", "/run/podwire-install/agent.kubeconfig"),
        ),
        (VERSION, "smoke", "start"),
        (VERSION, "smoke", "check"),
        (VERSION, "smoke", "stop"),
        (VERSION, "commit"),
        ("rm", "-rf", "/run/podwire-install"),
    ]
    shells = [command for command in commands if command[0] == "sh"]
    assert [command[4:] for command in shells] == [
        (INCOMING,),
        ("/run/podwire-install", "agent.kubeconfig"),
        (INCOMING, "yes"),
    ]
    assert "tar -x -z" in shells[0][2]


def test_every_node_is_looked_at_before_any_is_changed_and_committed_after_all_are_tested(lab: HostLab) -> None:
    lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    story = [" ".join(line.split()[:3]) for line in (lab.folder / "calls").read_text().splitlines()]
    assert [" ".join(line.split()[:2]) if "cluster" not in line else line for line in story if "smoke" not in line] == [
        "kind-control-plane cluster plan",
        "kind-control-plane preflight",
        "kind-worker preflight",
        "kind-control-plane cluster grant",
        "kind-control-plane cluster grant",
        "kind-control-plane place",
        "kind-control-plane install",
        "kind-worker place",
        "kind-worker install",
        "kind-control-plane cluster ready",
        "kind-control-plane commit",
        "kind-worker commit",
    ]
    assert [line for line in story if "smoke" in line] == [
        "kind-control-plane smoke start",
        "kind-worker smoke start",
        "kind-control-plane smoke check",
        "kind-worker smoke check",
        "kind-control-plane smoke stop",
        "kind-worker smoke stop",
    ]


def test_each_node_checks_the_test_pods_of_all_nodes(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    for node in nodes:
        assert (node.folder / "smoke-got").read_text() == "pod of kind-control-plane\npod of kind-worker\n"


def test_after_an_installation_nodes_hold_the_version_and_nothing_of_the_way_there(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    for node in nodes:
        assert node.tree == [
            "opt/podwire",
            f"opt/podwire/current -> versions/{IDENTITY}",
            "opt/podwire/versions",
            f"opt/podwire/versions/{IDENTITY}",
            f"opt/podwire/versions/{IDENTITY}/bin",
            f"opt/podwire/versions/{IDENTITY}/bin/podwire-node",
        ]
    assert sorted(path.name for path in (lab.folder / "tmp").iterdir()) == []


def test_the_agents_token_reaches_the_nodes_through_stdin_alone(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    # A node that says too much must not put it into the log either.
    nodes[1].behave("install", f'echo "got token: {TOKEN}" >&2')
    done = lab.install()
    assert done.code == 0
    assert [TOKEN in (node.folder / "kubeconfig-got").read_text() for node in nodes] == [True, True]
    for text in ((lab.folder / "argv").read_text(), lab.log.read_text(), done.out, done.err):
        assert TOKEN.partition(".")[0] not in text
    assert "[redacted]" in lab.log.read_text()


def test_progress_tells_node_step_outcome_and_time_without_colours(lab: HostLab) -> None:
    lab.cluster("kind-control-plane")
    out = lab.install().out
    assert "cluster kind (docker): kind-control-plane\n" in out
    assert "\x1b" not in out
    assert "\r" not in out
    lines = [line for line in out.splitlines() if line.startswith("[kind-control-plane] install")]
    assert lines[-1].startswith("[kind-control-plane] install ... ok (")
    assert lines[-1].endswith(" s)")
    assert "    conflist written\n" in out
    assert f"details: {lab.log}\n" in out


def test_the_same_payload_again_changes_nothing_and_says_so(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install().code == 0
    before = [node.tree for node in nodes]
    (lab.folder / "calls").unlink()
    done = lab.install()
    assert done.code == 0
    assert f"nothing to do: {IDENTITY} is installed on all nodes, with the same options\n" in done.out
    assert [node.tree for node in nodes] == before
    story = (lab.folder / "calls").read_text()
    assert "place" not in story
    assert "smoke" not in story


def test_a_newer_payload_is_pushed_beside_the_one_in_use(lab: HostLab) -> None:
    node = lab.cluster("kind-control-plane")[0]
    assert lab.install().code == 0
    make_payload(lab.payload, "0.2.0-ba9876543210")
    done = lab.install()
    assert done.code == 0
    assert "installed: kind-control-plane\n" in done.out
    assert "opt/podwire/current -> versions/0.2.0-ba9876543210" in node.tree
    assert f"opt/podwire/versions/{IDENTITY}" in node.tree, "commit drops it, and podwire-node's is a script here"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shim"], "--shim"),
        (["--all"], "--cni --shim"),
        (["--cni", "--no-agent"], "--cni --no-agent"),
        (["--mode", "vxlan"], "--mode vxlan"),
        (["--mode=host-gw"], "--mode host-gw"),
        (["--cluster-cidr", "10.96.0.0/12"], "--cluster-cidr 10.96.0.0/12 --cluster-cidr 10.244.0.0/16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_preflight_and_install_alike(lab: HostLab, words: list[str], expected: str) -> None:
    node = lab.cluster("kind-control-plane")[0]
    assert lab.install(*words).code == 0
    for verb in ("preflight", "install"):
        assert [expected in call for call in node.calls if call.startswith(verb)] == [True]


def test_with_the_shim_the_endpoint_is_named_in_the_cluster(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    assert lab.install("--all").code == 0
    assert [call for call in nodes[0].calls if "annotate" in call] == [
        "cluster annotate kind-control-plane unix:///run/podwire/cri.sock",
        "cluster annotate kind-worker unix:///run/podwire/cri.sock",
    ]


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(lab: HostLab, shell: str) -> None:
    lab.shell = shell
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    done = lab.install("--dry-run", "--all", "--replace-kindnet")
    assert done.code == 0
    for at, node in enumerate(nodes):
        assert f"[{node.name}] would install {IDENTITY}: pod CIDRs 10.244.{at}.0/24" in done.out
        assert node.tree == []
        verbs = {call.split(" --")[0] for call in node.calls}
        assert verbs <= {"preflight", "cluster plan"}


def test_where_the_control_plane_is_left_out_it_is_only_asked(lab: HostLab) -> None:
    control_plane, worker, other = lab.cluster("kind-control-plane", "kind-worker", "kind-worker2")
    done = lab.install("--nodes", "kind-worker")
    assert done.code == 0, done.err
    assert "kind-control-plane (only asked) kind-worker" in done.out
    assert {call.partition(" ")[0] for call in control_plane.calls} == {"cluster"}
    assert control_plane.tree == []
    assert f"opt/podwire/current -> versions/{IDENTITY}" in worker.tree
    assert (other.calls, other.tree) == ([], [])


def test_without_a_cluster_pod_cidrs_are_split_and_every_node_gets_the_same_peers(lab: HostLab) -> None:
    nodes = [lab.add("node-a", "control-plane"), lab.add("node-b")]
    for at, node in enumerate(nodes):
        (node.folder / "addresses").write_text(
            f"2: eth0    inet 172.18.0.{at + 2}/16 brd 172.18.255.255 scope global eth0\\  valid_lft forever\n"
        )
    (nodes[0].folder / "plan").write_text(
        "node\tnode-a\t10.9.0.0/24,fd00:9::/64\nnode\tnode-b\t10.9.1.0/24,fd00:9:0:1::/64\n"
        "cluster\t10.9.0.0/16\ncluster\tfd00:9::/56\n"
    )
    done = lab.install("--pod-cidr", "10.9.0.0/16", "--pod-cidr", "fd00:9::/56")
    assert done.code == 0, done.err
    assert nodes[0].calls[0] == (
        "cluster plan --text --split 10.9.0.0/16 --split fd00:9::/56 --node node-a --node node-b"
    )
    assert "--pod-cidr 10.9.1.0/24 --pod-cidr fd00:9:0:1::/64" in nodes[1].calls[0]
    texts = [(node.folder / "peers-got").read_text() for node in nodes]
    assert texts[0] == texts[1]
    assert texts[0] == (
        '[[node]]\nname = "node-a"\naddresses = ["172.18.0.2"]\n'
        'pod_cidrs = ["10.9.0.0/24", "fd00:9::/64"]\n\n'
        '[[node]]\nname = "node-b"\naddresses = ["172.18.0.3"]\n'
        'pod_cidrs = ["10.9.1.0/24", "fd00:9:0:1::/64"]\n\n'
    )
    assert not any("ready" in call or "grant" in call for node in nodes for call in node.calls)


def test_peers_are_named_where_the_nodes_resolve_one_another(lab: HostLab) -> None:
    nodes = [lab.add("node-a", "control-plane"), lab.add("node-b")]
    (nodes[0].folder / "resolves").write_text("")
    (nodes[0].folder / "plan").write_text("node\tnode-a\t10.9.0.0/24\nnode\tnode-b\t10.9.1.0/24\n")
    assert lab.install("--pod-cidr", "10.9.0.0/16").code == 0
    assert 'addresses = ["node-b"]' in (nodes[1].folder / "peers-got").read_text()


def test_a_peers_file_of_the_callers_is_handed_on_as_it_is(lab: HostLab) -> None:
    nodes = lab.cluster("kind-control-plane", "kind-worker")
    mine = lab.folder / "my peers.toml"
    mine.write_text('[[node]]\nname = "x"\naddresses = ["192.0.2.1"]\npod_cidrs = ["10.1.0.0/24"]\n')
    done = lab.install("--peers", mine.name)
    assert done.code == 0
    assert [(node.folder / "peers-got").read_text() for node in nodes] == [mine.read_text()] * 2
    assert not any("grant" in call for call in nodes[0].calls)


def test_nodes_of_two_architectures_get_a_payload_each(lab: HostLab) -> None:
    control_plane = lab.cluster("kind-control-plane", "kind-arm")[0]
    (lab.nodes_folder / "kind-arm" / "bin" / "uname").write_text("#!/bin/sh\necho aarch64\n")
    other = lab.folder / "podwire-0.1.0-arm64.tar.gz"
    make_payload(other, "0.1.0-aaaaaaaaaaaa")
    done = lab.install("--payload", str(other))
    assert done.code == 0, done.err
    assert f"opt/podwire/current -> versions/{IDENTITY}" in control_plane.tree
    assert (lab.nodes_folder / "kind-arm" / "opt/podwire/versions/0.1.0-aaaaaaaaaaaa").is_dir()
