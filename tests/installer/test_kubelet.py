"""kubelet's endpoint: found, set and taken back in the files of three kubeadm generations, and of nodes unlike them."""

import shutil
from pathlib import Path

import pytest
import yaml

from cni_plugin.install.kubelet import DEFAULT, Edit, EndpointError, edits, survey
from cni_plugin.install.places import Places

FIXTURES = Path(__file__).parent / "kubeadm"
SHIM = "unix:///run/podwire/cri.sock"
FLAGS, CONFIG = "var/lib/kubelet/kubeadm-flags.env", "var/lib/kubelet/config.yaml"
INSTANCE, CRICTL = "var/lib/kubelet/instance-config.yaml", "etc/crictl.yaml"
EXTRA, SYSCONFIG = "etc/default/kubelet", "etc/sysconfig/kubelet"
UNIT, DROP_IN = "etc/systemd/system/kubelet.service", "etc/systemd/system/kubelet.service.d/20-runtime.conf"

GENERATIONS = {
    "1.26": ("flag", "unix:///var/run/containerd/containerd.sock", True, {FLAGS}),
    "1.31": ("flag", DEFAULT, True, {FLAGS, CRICTL}),
    "1.35": ("instance", DEFAULT, False, {CONFIG, INSTANCE, CRICTL}),
}


def node(root: Path, version: str = "") -> Places:
    """A node with the files of a kubeadm version, or without any."""
    if version:
        shutil.copytree(FIXTURES / version, root, dirs_exist_ok=True)
    return Places(root)


def write(places: Places, path: str, text: str) -> None:
    place = places.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode())


def contents(places: Places) -> dict[str, bytes]:
    return {str(path.relative_to(places.root)): path.read_bytes() for path in places.root.rglob("*") if path.is_file()}


def apply(places: Places, planned: list[Edit]) -> set[str]:
    for edit in planned:
        assert edit.path.read_bytes() == edit.before
        assert edit.after is not None
        edit.path.write_bytes(edit.after)
    return {str(edit.path.relative_to(places.root)) for edit in planned}


@pytest.mark.parametrize("version", GENERATIONS)
def test_the_generation_and_the_endpoint_are_recognised(version: str, tmp_path: Path) -> None:
    found = survey(node(tmp_path, version))
    assert (found.generation, found.endpoint, found.annotation_wanted) == GENERATIONS[version][:3]


@pytest.mark.parametrize("version", GENERATIONS)
def test_every_place_that_matters_is_switched_and_no_other_file(version: str, tmp_path: Path) -> None:
    places = node(tmp_path, version)
    assert apply(places, edits(places, SHIM)) == GENERATIONS[version][3]
    after = survey(places)
    assert after.endpoint == SHIM
    assert {each.value for each in after.named} == {SHIM}


@pytest.mark.parametrize("version", GENERATIONS)
def test_switching_again_changes_nothing(version: str, tmp_path: Path) -> None:
    places = node(tmp_path, version)
    apply(places, edits(places, SHIM))
    assert edits(places, SHIM) == []


@pytest.mark.parametrize("version", GENERATIONS)
def test_switching_back_gives_every_byte_back(version: str, tmp_path: Path) -> None:
    places = node(tmp_path, version)
    before, endpoint = contents(places), survey(places).endpoint
    apply(places, edits(places, SHIM))
    apply(places, edits(places, endpoint))
    assert contents(places) == before


@pytest.mark.parametrize("version", GENERATIONS)
def test_nothing_but_the_endpoint_has_another_meaning_afterwards(version: str, tmp_path: Path) -> None:
    places = node(tmp_path, version)
    before = yaml.safe_load((tmp_path / CONFIG).read_text())
    apply(places, edits(places, SHIM))
    after = yaml.safe_load((tmp_path / CONFIG).read_text())
    assert {**after, "containerRuntimeEndpoint": None} == {**before, "containerRuntimeEndpoint": None}


def test_kubeadms_next_upgrade_finds_ours_in_the_nodes_own_part(tmp_path: Path) -> None:
    places = node(tmp_path, "1.35")
    apply(places, edits(places, SHIM))
    # kubeadm lays this file over the cluster's configuration and writes the outcome to config.yaml.
    assert yaml.safe_load((tmp_path / INSTANCE).read_text()) == {"containerRuntimeEndpoint": SHIM}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('A="--container-runtime-endpoint=unix:///a.sock --v=2"\n', 'A="--container-runtime-endpoint={} --v=2"\n'),
        ('A="--v=2 --container-runtime-endpoint unix:///a.sock"\n', 'A="--v=2 --container-runtime-endpoint {}"\n'),
        ("A='--container-runtime-endpoint=unix:///a.sock'", "A='--container-runtime-endpoint={}'"),
        ("A=--container-runtime-endpoint=unix:///a.sock\n", "A=--container-runtime-endpoint={}\n"),
        ('A="--container-runtime-endpoint=\\"unix:///a.sock\\""\n', 'A="--container-runtime-endpoint=\\"{}\\""\n'),
        ('A="--container_runtime_endpoint=unix:///a.sock"\n', 'A="--container_runtime_endpoint={}"\n'),
        (
            'A="--container-runtime=remote --container-runtime-endpoint=unix:///a.sock"\n',
            'A="--container-runtime=remote --container-runtime-endpoint={}"\n',
        ),
        (
            "# --container-runtime-endpoint=unix:///old\nA=--container-runtime-endpoint=unix:///a.sock\n",
            "# --container-runtime-endpoint=unix:///old\nA=--container-runtime-endpoint={}\n",
        ),
        ("A=--container-runtime-endpoint=unix:///a.sock\r\nB=1\r\n", "A=--container-runtime-endpoint={}\r\nB=1\r\n"),
    ],
    ids=["equals", "blank", "single quotes", "bare", "inner quotes", "underscores", "1.26", "comment", "CRLF"],
)
def test_a_flag_is_changed_however_it_is_written(before: str, after: str, tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, FLAGS, before)
    apply(places, edits(places, SHIM))
    assert (tmp_path / FLAGS).read_bytes().decode() == after.format(SHIM)
    apply(places, edits(places, "unix:///a.sock"))
    assert (tmp_path / FLAGS).read_bytes().decode() == before


def test_a_bare_path_stays_one_as_old_kubelets_were_given_it(tmp_path: Path) -> None:
    places = node(tmp_path)
    before = 'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=/run/containerd/containerd.sock"\n'
    write(places, FLAGS, before)
    apply(places, edits(places, SHIM))
    assert "=/run/podwire/cri.sock" in (tmp_path / FLAGS).read_text()
    apply(places, edits(places, DEFAULT))
    assert (tmp_path / FLAGS).read_text() == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("kind: A\ncontainerRuntimeEndpoint: unix:///a.sock\n", "kind: A\ncontainerRuntimeEndpoint: {}\n"),
        ('containerRuntimeEndpoint: "unix:///a.sock"  # old\n', 'containerRuntimeEndpoint: "{}"  # old\n'),
        ("containerRuntimeEndpoint:   'unix:///a.sock'\nkind: A", "containerRuntimeEndpoint:   '{}'\nkind: A"),
        ('"containerRuntimeEndpoint": "unix:///a.sock"\n', '"containerRuntimeEndpoint": "{}"\n'),
        (
            '{"kind": "A",\n  "containerRuntimeEndpoint": "unix:///a.sock",\n  "port": 1}\n',
            '{"kind": "A",\n  "containerRuntimeEndpoint": "%s",\n  "port": 1}\n',
        ),
        (
            "a:\n  containerRuntimeEndpoint: unix:///inner\ncontainerRuntimeEndpoint: unix:///a.sock\n",
            "a:\n  containerRuntimeEndpoint: unix:///inner\ncontainerRuntimeEndpoint: {}\n",
        ),
        ("containerRuntimeEndpoint: unix:///a.sock\r\nkind: A\r\n", "containerRuntimeEndpoint: {}\r\nkind: A\r\n"),
    ],
    ids=["plain", "double quotes", "single quotes", "quoted key", "JSON", "another of its name inside", "CRLF"],
)
def test_a_field_is_changed_however_it_is_written(before: str, after: str, tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, CONFIG, before)
    apply(places, edits(places, SHIM))
    assert (tmp_path / CONFIG).read_bytes().decode() == after.replace("%s", "{}").replace("{}", SHIM)
    apply(places, edits(places, "unix:///a.sock"))
    assert (tmp_path / CONFIG).read_bytes().decode() == before


@pytest.mark.parametrize(
    "before",
    [
        "kind: A\n",
        "kind: A",
        "",
        "# only a comment\n",
        'containerRuntimeEndpoint: ""\nkind: A\n',
        "containerRuntimeEndpoint: ''\n",
        "containerRuntimeEndpoint:\nkind: A\n",
        'kind: A\ncontainerRuntimeEndpoint: ""',
        "kind: A\r\ncontainerRuntimeEndpoint: ''\r\n",
    ],
    ids=[
        "absent",
        "absent, no newline",
        "an empty file",
        "a comment",
        "empty",
        "single quotes",
        "null",
        "empty, no newline",
        "CRLF",
    ],
)
def test_a_field_that_names_nothing_is_given_and_taken_back(before: str, tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, CONFIG, before)
    assert survey(places).endpoint == DEFAULT
    apply(places, edits(places, SHIM))
    assert survey(places).endpoint == SHIM
    assert "# podwire: was" in (tmp_path / CONFIG).read_text()
    apply(places, edits(places, DEFAULT))
    assert (tmp_path / CONFIG).read_bytes().decode() == before


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (EXTRA, "KUBELET_EXTRA_ARGS=--v=2 --container-runtime-endpoint=unix:///run/containerd/containerd.sock\n"),
        (SYSCONFIG, "KUBELET_EXTRA_ARGS='--container-runtime-endpoint unix:///run/containerd/containerd.sock'\n"),
        (
            DROP_IN,
            '[Service]\nEnvironment="KUBELET_EXTRA_ARGS=--container-runtime-endpoint=unix:///run/containerd/containerd.sock"\n',
        ),
        (
            UNIT,
            "[Service]\nExecStart=/usr/bin/kubelet \\\n"
            "  --container-runtime-endpoint=unix:///run/containerd/containerd.sock \\\n  --v=2\n",
        ),
        ("etc/kubernetes/kubelet.env", "ARGS=--container-runtime-endpoint=unix:///run/containerd/containerd.sock\n"),
    ],
    ids=["default", "sysconfig", "drop-in", "unit", "a file that the unit names"],
)
def test_a_flag_is_found_wherever_the_unit_takes_it_from(path: str, line: str, tmp_path: Path) -> None:
    places = node(tmp_path, "1.35")
    if path == "etc/kubernetes/kubelet.env":
        write(
            places, UNIT, "[Service]\nEnvironmentFile=-/etc/kubernetes/kubelet.env\nExecStart=/usr/bin/kubelet $ARGS\n"
        )
    write(places, path, line)
    before = contents(places)
    apply(places, edits(places, SHIM))
    assert {each.value for each in survey(places).named} == {SHIM}
    assert (tmp_path / path).read_text() == line.replace(DEFAULT, SHIM)
    apply(places, edits(places, DEFAULT))
    assert contents(places) == before


def test_the_administrators_flag_counts_more_than_kubeadms(tmp_path: Path) -> None:
    places = node(tmp_path, "1.31")
    write(places, EXTRA, "KUBELET_EXTRA_ARGS=--container-runtime-endpoint=unix:///run/crio/crio.sock\n")
    assert survey(places).endpoint == "unix:///run/crio/crio.sock"
    apply(places, edits(places, SHIM))
    assert survey(places).endpoint == SHIM


def test_a_flag_in_a_packages_unit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    places = node(tmp_path, "1.35")
    unit = tmp_path / "usr/lib/systemd/system/kubelet.service"
    unit.write_text(
        unit.read_text().replace("/usr/bin/kubelet", f"/usr/bin/kubelet --container-runtime-endpoint={DEFAULT}")
    )
    with pytest.raises(EndpointError, match="stands in a unit that belongs to a package") as caught:
        edits(places, SHIM)
    assert "KUBELET_EXTRA_ARGS" in caught.value.details


def test_kubelets_configuration_is_looked_for_where_its_flag_says(tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, UNIT, "[Service]\nExecStart=/usr/bin/kubelet --config=/etc/kubernetes/kubelet.yaml\n")
    write(places, "etc/kubernetes/kubelet.yaml", f"containerRuntimeEndpoint: {DEFAULT}\n")
    assert survey(places).annotation_wanted is False
    assert apply(places, edits(places, SHIM)) == {"etc/kubernetes/kubelet.yaml"}


def test_a_drop_in_of_kubelets_configuration_counts_more_than_its_file(tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, UNIT, "[Service]\nExecStart=/usr/bin/kubelet --config-dir=/etc/kubernetes/kubelet.conf.d\n")
    write(places, CONFIG, "kind: KubeletConfiguration\n")
    write(places, "etc/kubernetes/kubelet.conf.d/10-runtime.conf", f"containerRuntimeEndpoint: {DEFAULT}\n")
    assert apply(places, edits(places, SHIM)) == {"etc/kubernetes/kubelet.conf.d/10-runtime.conf"}
    assert survey(places).endpoint == SHIM


def test_the_image_endpoint_follows_where_it_was_the_same_runtime(tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, CONFIG, f"containerRuntimeEndpoint: {DEFAULT}\nimageServiceEndpoint: {DEFAULT}\n")
    apply(places, edits(places, SHIM))
    assert (tmp_path / CONFIG).read_text() == f"containerRuntimeEndpoint: {SHIM}\nimageServiceEndpoint: {SHIM}\n"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (CONFIG, f"containerRuntimeEndpoint: {DEFAULT}\nimageServiceEndpoint: unix:///run/stargz.sock\n"),
        (CRICTL, "runtime-endpoint: unix:///run/crio/crio.sock\n"),
    ],
    ids=["image endpoint", "crictl"],
)
def test_what_names_another_runtime_is_left_alone(path: str, text: str, tmp_path: Path) -> None:
    places = node(tmp_path, "1.35")
    write(places, path, text)
    apply(places, edits(places, SHIM))
    assert text.splitlines()[-1] in (tmp_path / path).read_text()


def test_a_node_without_a_kubelet_has_nothing_to_edit(tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, CRICTL, f"runtime-endpoint: {DEFAULT}\n")
    found = survey(places)
    assert (found.kubelet, found.generation, found.annotation_wanted) == (False, "none", False)
    assert edits(places, SHIM) == []


def test_a_linked_file_stays_a_link(tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, "data/config.yaml", f"containerRuntimeEndpoint: {DEFAULT}\n")
    (tmp_path / "var/lib/kubelet").mkdir(parents=True)
    (tmp_path / CONFIG).symlink_to(tmp_path / "data/config.yaml")
    assert apply(places, edits(places, SHIM)) == {"data/config.yaml"}


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (FLAGS, "A=--container-runtime-endpoint=$RUNTIME\n", "line 1: the value of .* is made of a variable"),
        (FLAGS, "A=\nB='--v=2 --container-runtime-endpoint'\n", "line 2: the value of .* cannot be read"),
        (FLAGS, "A=--container-runtime=docker\n", "dockershim"),
        (CONFIG, "kind: [\n", "it is no YAML"),
        (CONFIG, "- a\n", "it holds no fields"),
        (CONFIG, "containerRuntimeEndpoint: a\ncontainerRuntimeEndpoint: b\n", "stands in it 2 times"),
        (CONFIG, "containerRuntimeEndpoint: >-\n  unix:///a.sock\n", "cannot be changed safely"),
        (CONFIG, "{containerRuntimeEndpoint: unix:///a.sock}\n", "cannot be changed safely"),
        (CONFIG, '{"kind": "KubeletConfiguration"}\n', "it is JSON without the field"),
        (CONFIG, "kind: A\n---\nkind: B\n", "it is no YAML"),
        (INSTANCE, "containerRuntimeEndpoint: &a unix:///a.sock\n", "cannot be changed safely"),
        (CRICTL, "runtime-endpoint: [\n", "it is no YAML"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named_and_nothing_is_planned(
    path: str, text: str, said: str, tmp_path: Path
) -> None:
    places = node(tmp_path, "1.35")
    write(places, path, text)
    before = contents(places)
    with pytest.raises(EndpointError, match=f"^{tmp_path / path}: .*{said}"):
        edits(places, SHIM)
    assert contents(places) == before


def test_a_kubelet_that_has_not_joined_yet_is_said_to_be_so(tmp_path: Path) -> None:
    places = node(tmp_path)
    write(places, UNIT, "[Service]\nExecStart=/usr/bin/kubelet\n")
    with pytest.raises(EndpointError, match=r"config\.yaml is not there") as caught:
        edits(places, SHIM)
    assert "when the node has joined its cluster" in caught.value.details


@pytest.mark.parametrize("endpoint", ["/run/podwire/cri.sock", "tcp://127.0.0.1:1", "unix://relative"])
def test_only_an_absolute_unix_endpoint_is_set(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="is no endpoint"):
        edits(node(tmp_path, "1.35"), endpoint)
