"""Two kind-like nodes on an engine of the tests' own, shared by all tests here; each test leaves them as they were."""

import os
from collections.abc import Iterator

import pytest

from tests.lab import engine as engines
from tests.lab import kindnode
from tests.lab.debian import Absent
from tests.lab.engine import Engine, EngineAbsentError
from tests.lab.kindnode import Cluster, Node
from tests.lab.nodeimage import node_image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/nodes/" in item.path.as_posix():
            item.add_marker(pytest.mark.root)


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
