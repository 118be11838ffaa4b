"""Packages of a Debian suite, unpacked into build/lab and never installed: sid's containerd, and CNI's plugins.

The package lists lie in a folder of their own, apt verifies them with Debian's keyring, and the running system's
lists, configuration and package state are not touched. The mirror is the one the system itself uses.
"""

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.containerd import ContainerdBinary, installed
from tests.lab.images import CACHE

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Absent:
    """Why it cannot be had; `mirror_has_it` is False only when the mirror answered and does not offer it."""

    reason: str
    mirror_has_it: bool


def containerd_of(suite: str) -> ContainerdBinary | Absent:
    """containerd of a Debian suite: from the cache, else downloaded (30 MB of package, 11 MB of lists)."""
    found = _unpacked("containerd", suite, CACHE / f"{suite}-containerd", "usr/bin/containerd")
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
    package = "containernetworking-plugins"
    found = _unpacked(package, suite, CACHE / f"{suite}-{package}", "usr/lib/cni/ptp")
    return found if isinstance(found, Absent) else found / "usr/lib/cni"


def _unpacked(package: str, suite: str, target: Path, proof: str) -> Path | Absent:
    if (target / proof).exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / proof).exists():
            return target
        return _download(package, suite, target) or target


def _usable(target: Path, suite: str) -> ContainerdBinary | Absent:
    try:
        return ContainerdBinary.at(target / "usr/bin")
    except (subprocess.SubprocessError, OSError) as error:
        return Absent(f"{suite}'s containerd does not run on this system: {error}", mirror_has_it=False)


def _mirror() -> str | None:
    """The Debian mirror in the system's own sources; security and third-party archives have no sid."""
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


def _download(package: str, suite: str, target: Path) -> Absent | None:
    if shutil.which("apt-get") is None or not _KEYRING.exists():
        return Absent("apt-get or Debian's archive keyring is not here", mirror_has_it=False)
    mirror = _mirror()
    if mirror is None:
        return Absent("this machine's package sources name no Debian mirror", mirror_has_it=False)
    work = CACHE / f".{suite}-{package}-{os.getpid()}"
    try:
        (work / "lists" / "partial").mkdir(parents=True)
        (work / "archives" / "partial").mkdir(parents=True)
        (work / "suite.sources").write_text(
            f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {_KEYRING}\n"
        )
        apt = [
            "apt-get",
            "-q",
            *("-o", f"Dir::State::Lists={work}/lists"),
            *("-o", f"Dir::Etc::sourcelist={work}/suite.sources"),
            *("-o", "Dir::Etc::sourceparts=/dev/null"),
            *("-o", f"Dir::Cache={work}"),
            # The sandbox user of apt cannot write below a root-owned folder.
            *("-o", "APT::Sandbox::User=root"),
            *("-o", "Acquire::Retries=2"),
            *("-o", "Acquire::http::Timeout=30"),
        ]
        update = subprocess.run([*apt, "update"], capture_output=True, text=True, timeout=240, check=False)
        if update.returncode != 0 or not any((work / "lists").glob("*InRelease")):
            return Absent(f"Debian {suite} cannot be reached at {mirror}: {_last(update.stderr)}", mirror_has_it=False)
        policy = subprocess.run(["apt-cache", *apt[2:], "show", package], capture_output=True, text=True, check=False)
        if policy.returncode != 0:
            return Absent(f"{mirror} has no {package} in {suite}", mirror_has_it=False)
        fetch = subprocess.run(
            [*apt, "download", package],
            cwd=work,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        packages = list(work.glob(f"{package}_*.deb"))
        if fetch.returncode != 0 or not packages:
            return Absent(f"{mirror} lists {package} but does not give it: {_last(fetch.stderr)}", mirror_has_it=True)
        subprocess.run(["dpkg-deb", "-x", packages[0], work / "root"], check=True, capture_output=True)
        (work / "root").rename(target)
    except subprocess.TimeoutExpired as error:
        return Absent(f"Debian {suite} at {mirror}: {error}", mirror_has_it=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return None


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
