"""How install.sh installs packages: apt and dpkg are stand-ins, policy-rc.d is the machine's own."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.install.conftest import environment

POLICY = Path("/usr/sbin/policy-rc.d")

# One package counts as missing until "apt-get install" was called; all others are as dpkg says.
_DPKG_QUERY = """\
#!/bin/sh
case "$*" in *iproute2*) [ -e {folder}/installed ] && printf installed; exit 0 ;; esac
exec {real} "$@"
"""
_APT_GET = """\
#!/bin/sh
echo "$*" >>{folder}/calls
case "$*" in *install*) ;; *) exit 0 ;; esac
{policy} containerd start; echo "policy $?" >>{folder}/calls
{then}
"""


@dataclass(frozen=True)
class StandIns:
    """A PATH with the stand-ins, and what they wrote down."""

    folder: Path

    def run(self, clone: Path, then: str) -> subprocess.CompletedProcess[str]:
        """install.sh demo --stop: it needs the packages, and does nothing else when no demo runs."""
        real = shutil.which("dpkg-query")
        for name, text in (("dpkg-query", _DPKG_QUERY), ("apt-get", _APT_GET)):
            script = self.folder / name
            script.write_text(text.format(folder=self.folder, real=real, policy=POLICY, then=then))
            script.chmod(0o755)
        return subprocess.run(
            ["./install.sh", "demo", "--stop"],
            cwd=clone,
            env={**environment(), "PATH": f"{self.folder}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """Lines the stand-ins wrote."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


def policy() -> tuple[int, bytes, int] | None:
    """What identifies the file: the same inode, the same bytes, the same mode."""
    if not POLICY.exists():
        return None
    status = POLICY.stat()
    return status.st_ino, POLICY.read_bytes(), status.st_mode


@pytest.mark.parametrize(
    ("then", "code"),
    [
        pytest.param("touch {folder}/installed", 0, id="success"),
        pytest.param("echo 'E: no such package' >&2; exit 100", 1, id="failure"),
        pytest.param("kill -TERM $PPID", 143, id="SIGTERM"),
        pytest.param("kill -INT $PPID; exit 130", 130, id="SIGINT"),
    ],
)
def test_services_are_held_while_packages_are_installed_and_the_policy_is_put_back(
    clone: Path, stand_ins: StandIns, then: str, code: int
) -> None:
    before = policy()
    done = stand_ins.run(clone, then.replace("{folder}", str(stand_ins.folder)))
    assert done.returncode == code, done.stdout + done.stderr
    assert "policy 101" in stand_ins.calls()
    assert policy() == before
    assert not list(POLICY.parent.glob("policy-rc.d.*"))


def test_only_what_is_missing_is_installed_without_recommendations_or_removals(
    clone: Path, stand_ins: StandIns
) -> None:
    stand_ins.run(clone, "true")
    update, install = [call for call in stand_ins.calls() if not call.startswith("policy")]
    assert update.endswith("update")
    assert install.endswith(" install -y --no-remove --no-install-recommends iproute2")


def test_nothing_is_asked_of_apt_when_nothing_is_missing(clone: Path, stand_ins: StandIns) -> None:
    (stand_ins.folder / "installed").touch()
    assert stand_ins.run(clone, "true").returncode == 0
    assert stand_ins.calls() == []


def test_a_failed_installation_says_what_apt_said(clone: Path, stand_ins: StandIns) -> None:
    done = stand_ins.run(clone, "echo 'E: no such package' >&2; exit 100")
    assert "E: no such package" in done.stderr
    assert "iproute2" in done.stderr
