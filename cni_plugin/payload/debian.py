"""Packages of Debian 12, downloaded and unpacked, never installed.

apt works on lists, cache and package state of its own in a folder that is removed afterwards; it verifies all of it
with Debian's archive keyring. The mirror is the one this system uses, or what PODWIRE_MIRROR names.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from cni_plugin.payload.faults import BuildError, last_line

SUITE = "bookworm"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_VARIABLES = "PODWIRE_MIRROR (Debian's archive) and PODWIRE_SECURITY_MIRROR (its security archive)"


def host_architecture() -> str:
    """This machine's architecture in Debian's words: amd64, arm64."""
    machine = os.uname().machine
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    if machine not in known:
        raise BuildError(f"payloads are built on x86_64 or aarch64, and this is {machine}")
    return known[machine]


def download(wanted: Sequence[tuple[str, str]], folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Fetch the (package, architecture) pairs into `folder`, in the newest version of the suite and its security."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is not here", "build the payload on Debian or Ubuntu: it is the same everywhere")
    if not _KEYRING.exists():
        raise BuildError(f"{_KEYRING} is not here", "sudo apt-get install debian-archive-keyring")
    main, security = _mirrors()
    work = folder / ".apt"
    shutil.rmtree(work, ignore_errors=True)
    try:
        _private(work, main, security, sorted({architecture for _, architecture in wanted}))
        apt = ["apt-get", "-q"]
        say(f"package lists of Debian 12 from {main}")
        _run([*apt, "update"], work, f"Debian {SUITE} cannot be read at {main} and {security}", f"set {_VARIABLES}")
        say(f"{len(wanted)} packages")
        names = [f"{package}:{architecture}" for package, architecture in wanted]
        _run(
            [*apt, "download", *names],
            work,
            f"{main} did not give {', '.join(names)}",
            "call again, or set another mirror",
        )
        found = sorted(work.glob("*.deb"))
        if len(found) != len(wanted):
            raise BuildError(f"asked for {len(wanted)} packages and got {len(found)}: {[file.name for file in found]}")
        return [file.rename(folder / file.name) for file in found]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack(package: Path, folder: Path) -> None:
    """The files of a .deb into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _run(
        ["dpkg-deb", "-x", str(package), str(folder)],
        folder,
        f"{package} cannot be unpacked",
        "remove it, and call again",
    )


def _mirrors() -> tuple[str, str]:
    """Archive and security archive, from the environment or else the system's own sources."""
    main = os.environ.get("PODWIRE_MIRROR", "").rstrip("/")
    if main:
        return main, os.environ.get("PODWIRE_SECURITY_MIRROR", "").rstrip("/") or f"{main}-security"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        archive, _, uri = line.rpartition("|")
        found.setdefault(archive, uri.rstrip("/"))
    try:
        return found["Debian|Debian"], found["Debian|Debian-Security"]
    except KeyError:
        raise BuildError(
            "this system's package sources name no mirror of Debian and its security archive",
            f"sudo apt-get update, if this is Debian; else set {_VARIABLES}",
        ) from None


def _private(work: Path, main: str, security: str, architectures: Sequence[str]) -> None:
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "archives" / "partial").mkdir(parents=True)
    (work / "status").touch()
    sources = ((main, SUITE), (security, f"{SUITE}-security"))
    (work / "debian.sources").write_text(
        "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n"
            f"Architectures: {' '.join(architectures)}\nSigned-By: {_KEYRING}\n"
            for uri, suite in sources
        )
    )
    (work / "apt.conf").write_text(
        f"""{_proxies_and_the_like()}
Dir::State::Lists "{work}/lists";
Dir::State::Status "{work}/status";
Dir::Cache "{work}";
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "{work}/debian.sources";
Dir::Etc::SourceParts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
APT::Architecture "{architectures[0]}";
APT::Architectures {{ {" ".join(f'"{each}";' for each in architectures)} }};
// The sandbox user of apt cannot write below a folder that is somebody else's.
APT::Sandbox::User "";
"""
    )


def _proxies_and_the_like() -> str:
    """How the system's own apt reaches mirrors; nothing else of its configuration, which may run hooks."""
    dump = subprocess.run(
        ["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    unwanted = ("Acquire::IndexTargets", "Acquire::Languages", "Acquire::Changelogs")
    return "\n".join(line for line in dump.splitlines() if not line.startswith(unwanted))


def _run(command: Sequence[str], folder: Path, fault: str, hint: str) -> None:
    env = os.environ | {"APT_CONFIG": f"{folder}/apt.conf", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode or "\nW: Failed to fetch" in f"\n{done.stderr}":
        raise BuildError(f"{fault}: {last_line(done.stderr or done.stdout)}", hint)
