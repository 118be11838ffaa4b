"""Packages of a Debian suite, unpacked into build/lab and never installed: sid's containerd, CNI's plugins, dockerd.

The package lists lie in a folder of their own, apt verifies them with Debian's keyring, and the running system's
lists, configuration and package state are not touched. The mirror is the one the system itself uses.
"""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.containerd import ContainerdBinary, installed
from tests.lab.images import CACHE

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Package lists of a suite serve every download of one run of all tests; sid's change several times a day.
_LISTS_KEPT = 3600


@dataclass(frozen=True)
class Absent:
    """Why it cannot be had; `mirror_has_it` is False only when the mirror answered and does not offer it."""

    reason: str
    mirror_has_it: bool


def containerd_of(suite: str) -> ContainerdBinary | Absent:
    """containerd of a Debian suite: from the cache, else downloaded (30 MB of package, 11 MB of lists)."""
    found = unpacked(suite, ["containerd"], "usr/bin/containerd")
    return found if isinstance(found, Absent) else _usable(found, suite)


def containerds(soak: bool) -> "list[tuple[str, ContainerdBinary | Absent | None]]":
    """Whose pods the tests run: the distribution's containerd and sid's, with `soak` trixie's 1.7 too.

    Each with the name of its source; None is one that is not installed, or not looked for without root.
    """
    suites = ("sid", "trixie") if soak else ("sid",)
    unpacked = [(suite, containerd_of(suite) if os.geteuid() == 0 else None) for suite in suites]
    return [("distribution", installed()), *unpacked]


def reference_plugins(suite: str) -> Path | Absent:
    """The folder with the plugins of containernetworking/plugins, of Debian's `suite`."""
    found = unpacked(suite, ["containernetworking-plugins"], "usr/lib/cni/ptp")
    return found if isinstance(found, Absent) else found / "usr/lib/cni"


def unpacked(suite: str, packages: Sequence[str], proof: str) -> Path | Absent:
    """One folder with the files of these packages, without what they depend on; `proof` is a file that must be in it.

    From the cache, else downloaded: all packages in one go.
    """
    target = CACHE / f"{suite}-{'+'.join(packages)}"
    if (target / proof).exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / proof).exists():
            return target
        return _download(packages, suite, target) or target


def _usable(target: Path, suite: str) -> ContainerdBinary | Absent:
    try:
        return ContainerdBinary.at(target / "usr/bin")
    except (subprocess.SubprocessError, OSError) as error:
        return Absent(f"{suite}'s containerd does not run on this system: {error}", mirror_has_it=False)


def mirror() -> str | None:
    """The Debian mirror in the system's own sources; security and third-party archives have no sid."""
    if shutil.which("apt-get") is None or not KEYRING.exists():
        return None
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for line in listed.splitlines():
        archive, _, uri = line.rpartition("|")
        if archive == "Debian|Debian":
            return uri.rstrip("/")
    return None


def _download(packages: Sequence[str], suite: str, target: Path) -> Absent | None:
    uri = mirror()
    if uri is None:
        return Absent("no apt-get, no Debian keyring, or no Debian mirror among the package sources", False)
    lists = CACHE / f"{suite}-lists"
    work = CACHE / f".{target.name}-{os.getpid()}"
    names = ", ".join(packages)
    try:
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (work / "archives" / "partial").mkdir(parents=True)
        (work / "suite.sources").write_text(
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
        )
        options = [
            *("-o", f"Dir::State::Lists={lists}"),
            *("-o", f"Dir::Etc::sourcelist={work}/suite.sources"),
            *("-o", "Dir::Etc::sourceparts=/dev/null"),
            *("-o", f"Dir::Cache={work}"),
            # The sandbox user of apt cannot write below a root-owned folder.
            *("-o", "APT::Sandbox::User=root"),
            *("-o", "Acquire::Retries=2"),
            *("-o", "Acquire::http::Timeout=30"),
        ]
        if not _fresh(lists):
            update = _apt("apt-get", [*options, "update"], work)
            if update.returncode != 0 or not _lists(lists):
                return Absent(f"Debian {suite} cannot be reached at {uri}: {_last(update.stderr)}", mirror_has_it=False)
        if _apt("apt-cache", [*options, "show", *packages], work).returncode != 0:
            return Absent(f"{uri} has not all of {names} in {suite}", mirror_has_it=False)
        # The suite is named: in other suites the installed version may be the newer one, and apt would take that.
        fetch = _apt("apt-get", [*options, "download", *(f"{name}/{suite}" for name in packages)], work)
        archives = [archive for name in packages for archive in work.glob(f"{name}_*.deb")]
        if fetch.returncode != 0 or len(archives) != len(packages):
            return Absent(f"{uri} lists {names} but does not give all: {_last(fetch.stderr)}", mirror_has_it=True)
        for archive in archives:
            subprocess.run(["dpkg-deb", "-x", archive, work / "root"], check=True, capture_output=True)
        shutil.rmtree(target, ignore_errors=True)
        (work / "root").rename(target)
    except subprocess.TimeoutExpired as error:
        return Absent(f"Debian {suite} at {uri}: {error}", mirror_has_it=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return None


def _apt(program: str, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "-q", *arguments], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )


def _lists(folder: Path) -> list[Path]:
    return list(folder.glob("*InRelease"))


def _fresh(folder: Path) -> bool:
    # apt gives the files the times of the archive; the folder's own time is that of the last update.
    return bool(_lists(folder)) and time.time() - (folder / "partial").stat().st_mtime < _LISTS_KEPT


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
