"""Real nodes: every test here runs once per containerd that can be had."""

import os
from collections.abc import Iterator

import pytest

from tests.lab import kept, witness
from tests.lab.containerd import ContainerdBinary
from tests.lab.debian import Absent, containerds
from tests.lab.node import Node


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "binary" not in metafunc.fixturenames:
        return
    parameters = []
    for source, found in containerds(metafunc.config.getoption("--soak")):
        if isinstance(found, ContainerdBinary):
            parameters.append(pytest.param(found, id=found.name))
        else:
            parameters.append(pytest.param(found, id=f"containerd-of-{source}"))
    metafunc.parametrize("binary", parameters, scope="module")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/node/" in item.path.as_posix():
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="module")
def usable(binary: ContainerdBinary | Absent | None) -> ContainerdBinary:
    """The containerd of this run; absent is a skip that says why, and in CI a failure if the mirror has it."""
    if isinstance(binary, ContainerdBinary):
        return binary
    reason = binary.reason if binary is not None else "no containerd on PATH"
    if os.environ.get("CI") == "true" and (binary is None or binary.mirror_has_it):
        pytest.fail(f"containerd is needed in CI: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers_of_killed_runs() -> None:
    if os.geteuid() == 0:
        kept.sweep("test")


@pytest.fixture(scope="module")
def shared_node(usable: ContainerdBinary) -> Iterator[Node]:
    """One node per module and containerd."""
    with Node(usable) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Iterator[Node]:
    """The module's node without pods; after the test its pods are removed and nothing of them may be left."""
    node = shared_node
    # The first pod of a node makes what stays on it: the plugin's table, one folder of state.
    before = witness.of_node(node.namespace, node.base)
    yield node
    for pod in list(node.pods):
        node.remove_pod(pod)
    left = witness.settled(before, lambda: witness.of_node(node.namespace, node.base))
    assert not left, "left on the node:\n" + "\n".join(left)
