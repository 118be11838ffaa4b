"""One payload for this machine and one for the other architecture, each built once for all tests."""

from pathlib import Path

import pytest

from cni_plugin.payload import debian
from tests.payload.built import Payload, build, snapshot, unpack


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of every payload here."""
    return snapshot(tmp_path_factory.mktemp("repository") / "sources")


@pytest.fixture(scope="session")
def payload(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Payload:
    """Of this machine's architecture, moved to a folder with a space in its name."""
    architecture = debian.host_architecture()
    archive = build(repository, architecture, tmp_path_factory.mktemp("out"))
    return unpack(archive, tmp_path_factory.mktemp("moved") / "some where", architecture)


@pytest.fixture(scope="session")
def foreign(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Payload:
    """Of arm64, built on amd64."""
    if debian.host_architecture() != "amd64":
        pytest.skip("arm64 is this machine's own architecture: the other tests have run it")
    archive = build(repository, "arm64", tmp_path_factory.mktemp("foreign"))
    return unpack(archive, tmp_path_factory.mktemp("foreign-tree"), "arm64")
