"""Two kind-like nodes on an engine of the tests' own, shared by all tests here; each test leaves them as they were."""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import engine as engines
from tests.lab import kindnode, kindnode_state, witness
from tests.lab.debian import Absent
from tests.lab.engine import Engine, EngineAbsentError
from tests.lab.kindnode import Cluster, Node
from tests.lab.nodeimage import node_image
from tests.nodes import kubeadm, payloads
from tests.nodes.hostcommand import Host

# The cheap ones first; those of one file share its installation.
_ORDER = ("test_lab", "test_life", "test_interruption", "test_failures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/nodes/" in item.path.as_posix():
            item.add_marker(pytest.mark.root)
    ours = [item for item in items if "tests/nodes/" in item.path.as_posix()]
    ours.sort(key=lambda item: _ORDER.index(item.path.stem))
    places = [at for at, item in enumerate(items) if item in ours]
    for place, item in zip(places, ours, strict=True):
        items[place] = item


def _do_without(absent: Absent) -> None:
    """Skips say why; in CI a mirror that has what is needed is no excuse."""
    if os.environ.get("CI") == "true" and absent.mirror_has_it:
        pytest.fail(f"nodes are needed in CI: {absent.reason}", pytrace=False)
    pytest.skip(absent.reason)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A dockerd with the node image."""
    engines.sweep()
    image = node_image()
    if isinstance(image, Absent):
        _do_without(image)
    assert not isinstance(image, Absent)
    try:
        running = Engine()
    except EngineAbsentError as error:
        _do_without(error.absent)
        raise
    with running:
        kindnode.load(running, image)
        yield running


@pytest.fixture(scope="session")
def cluster(engine: Engine) -> Iterator[Cluster]:
    """kind-control-plane and kind-worker."""
    with Cluster(engine) as running:
        yield running


@pytest.fixture
def control_plane(cluster: Cluster) -> Node:
    """The first node."""
    return cluster.nodes[0]


@pytest.fixture
def worker(cluster: Cluster) -> Node:
    """The second node."""
    return cluster.nodes[1]


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The payload of this version of the project, for this machine's architecture."""
    return payloads.build(tmp_path_factory.mktemp("payload"))


@pytest.fixture(scope="session")
def newer_payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same under a higher version number."""
    return payloads.build(tmp_path_factory.mktemp("newer-payload"), version="99.0.0")


@pytest.fixture(scope="module")
def host(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Where ./install.sh is called."""
    return Host(cluster, tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def kubelets(cluster: Cluster) -> Iterator[None]:
    """Nodes that kubeadm has joined: its files, and kubelet's stand-in running."""
    with contextlib.ExitStack() as undo:
        for node in cluster.nodes:
            undo.enter_context(kubeadm.joined(node))
        yield


@pytest.fixture(scope="module")
def untouched(cluster: Cluster, host: Host) -> Iterator[None]:
    """At the end of the module podwire is uninstalled, if need be, and every node is as it was at its beginning."""
    before = {node: kindnode_state.of_node(node) for node in cluster.nodes}
    yield
    host.call("--uninstall", "--delete-pods", code=None)
    for node in cluster.nodes:
        left = witness.settled(before[node], functools.partial(kindnode_state.of_node, node))
        assert not left, f"{node.name} is not as it was:\n" + "\n".join(left)
