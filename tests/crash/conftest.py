"""The executable with failpoints, and nodes that are threads."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import failpoints
from tests.lab.threadnode import ThreadNode


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin with failpoints; the executable itself is `podwire` beside it."""
    return failpoints.build(tmp_path_factory.mktemp("cni"))


@pytest.fixture
def node(launcher: Path, tmp_path: Path) -> Iterator[ThreadNode]:
    """A node without pods, whose executable has failpoints."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with ThreadNode(launcher, tmp_path) as made:
        yield made
