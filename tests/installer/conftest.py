"""Fake clusters for host.sh, and nodes in folders for podwire-node, one per test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.installer.hostlab import SHELLS, HostLab
from tests.installer.scratch import ScratchNode
from tests.lab.netns import Namespace

MakeLab = Callable[..., HostLab]


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.soak] if name.startswith("busybox") else []) for name in SHELLS]
)
def shell(request: pytest.FixtureRequest) -> str:
    """A shell that host.sh must run under."""
    name = str(request.param)
    if shutil.which(SHELLS[name][0]) is None:
        pytest.skip(f"{SHELLS[name][0]} is not installed")
    return name


@pytest.fixture
def make_lab(tmp_path: Path) -> MakeLab:
    """A lab behind one engine, run by one shell."""
    return lambda engine="docker", shell="dash": HostLab(tmp_path, engine, shell)


@pytest.fixture
def lab(make_lab: MakeLab) -> HostLab:
    """A lab behind docker, run by dash."""
    return make_lab()


@pytest.fixture
def scratch() -> Iterator[ScratchNode]:
    """A node in a folder."""
    # Not tmp_path: a unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="podwire-", dir="/tmp") as folder, Namespace() as namespace:
        node = ScratchNode(Path(folder, "n"), namespace)
        with node.pods:
            yield node
