"""Which archive host.sh takes when none is named: the newest in build/, built anew where a source is newer."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.installer.hostlab import HOST, IDENTITY, PARTS, SHELLS, Done, HostLab, script

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Checkout:
    """host.sh in a working tree with sources and build/; its install.sh says that nothing has changed."""

    lab: HostLab
    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "build" / "podwire-0.1.0-amd64.tar.gz"

    @property
    def builds(self) -> list[str]:
        told = self.folder / "builds"
        return told.read_text().splitlines() if told.exists() else []

    def install(self) -> Done:
        command = [*SHELLS[self.lab.shell], str(self.folder / "cni_plugin/install/host.sh"), "kind"]
        done = subprocess.run(
            [*command, "--log", str(self.lab.log)],
            env=self.lab.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def checkout(lab: HostLab, tmp_path: Path) -> Checkout:
    """Its archive is older than one source."""
    folder = tmp_path / "a checkout"
    shutil.copytree(PARTS, folder / "cni_plugin/install/host")
    shutil.copy(HOST, folder / "cni_plugin/install")
    for name in ("build", "cri_shim", "conf"):
        (folder / name).mkdir()
    (folder / "pyproject.toml").write_text("")
    script(folder / "install.sh", 'echo "$*" >>"${0%/*}/builds"')
    made = Checkout(lab, folder)
    shutil.copy(lab.payload, made.archive)
    os.utime(made.archive, (1_700_000_000, 1_700_000_000))
    lab.cluster("kind-control-plane")
    return made


def test_an_archive_older_than_a_source_is_built_anew_once(checkout: Checkout, shell: str) -> None:
    checkout.lab.shell = shell
    assert checkout.install().code == 0
    assert checkout.builds == ["build --payload --arch amd64"]
    # The build leaves an archive of the same content alone.
    done = checkout.install()
    assert (done.code, "nothing to do" in done.out) == (0, True)
    assert checkout.builds == ["build --payload --arch amd64"]


def test_where_none_can_be_built_an_older_one_is_taken_and_said_so(checkout: Checkout) -> None:
    script(checkout.lab.bin / "uname", "echo Darwin")
    done = checkout.install()
    assert done.code == 0, done.err
    assert checkout.builds == []
    assert done.err.startswith(f"{checkout.archive} is older than ")
    assert done.err.count("\n") == 1


def test_a_build_that_fails_ends_before_any_node_is_touched(checkout: Checkout) -> None:
    script(checkout.folder / "install.sh", 'echo "no package index answers" >&2; exit 1')
    done = checkout.install()
    assert done.code == 1
    assert "no package index answers" in done.out
    assert "the payload for amd64 could not be built" in done.err
    assert not any(
        call.arguments[0] == "exec" and call.command[0] != "uname" and call.command[0] != "test"
        for call in checkout.lab.calls[2:]
    )


def test_an_archive_newer_than_all_sources_is_taken_as_it_is(checkout: Checkout) -> None:
    os.utime(checkout.archive)
    done = checkout.install()
    assert done.code == 0, done.err
    assert checkout.builds == []
    assert "installed: kind-control-plane\n" in done.out
    assert IDENTITY in done.out
