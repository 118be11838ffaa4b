"""Our dependencies as wheels for the node: chosen by pip, unpacked here.

pip is Debian 12's, run by Debian 12's Python, so that markers such as `python_version < "3.13"` are answered for the
node and not for the machine that builds.
"""

import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cni_plugin.payload.faults import BuildError, last_line

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC_MINORS = range(36, 16, -1)
# pip asks the running machine for platform_machine; here it must hear the node's.
_PIP = "import platform, runpy, sys; platform.machine = lambda: {machine!r}; sys.path.insert(0, {pip!r}); " + (
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
# Neither imported nor read at run time: tests, stubs, sources of compiled modules, pip's own notes.
_DROPPED_FOLDERS = frozenset({"tests", "test", "testing_support", "__pycache__"})
_DROPPED_SUFFIXES = frozenset({".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cc", ".cpp", ".pyc"})
_DROPPED_NOTES = frozenset({"RECORD", "INSTALLER", "WHEEL", "REQUESTED", "top_level.txt", "direct_url.json"})


def download(
    requirements: Sequence[str], architecture: str, interpreter: Sequence[str], env: dict[str, str], pip: Path, to: Path
) -> list[Path]:
    """Fetch the wheels that meet `requirements` on a node of `architecture`; pip's own configuration is respected."""
    machine = MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS] + [f"manylinux2014_{machine}"]
    command = [
        *interpreter,
        "-c",
        _PIP.format(machine=machine, pip=str(pip)),
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-cache-dir",
        "--only-binary=:all:",
        "--implementation=cp",
        "--python-version=3.11",
        *(f"--platform={each}" for each in platforms),
        f"--dest={to}",
        *requirements,
    ]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
    done = subprocess.run(command, env=settings | env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(
            f"pip could not fetch wheels for {machine} and Python 3.11: {last_line(done.stderr or done.stdout)}",
            "check that a package index can be reached (pip's own settings apply), then call again",
        )
    return sorted(to.glob("*.whl"))


def unpack(wheel: Path, site: Path) -> str:
    """Put a wheel's modules into `site`; returns the name of its .dist-info folder there."""
    info = ""
    with zipfile.ZipFile(wheel) as archive:
        for member in sorted(archive.namelist()):
            place = _place(PurePosixPath(member))
            if member.endswith("/") or place is None:
                continue
            if place.parts[0].endswith(".dist-info"):
                info = place.parts[0]
            target = site / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
    if not info:
        raise BuildError(f"{wheel.name} has no .dist-info: not a wheel", f"remove {wheel}, and call again")
    return info


def _place(member: PurePosixPath) -> PurePosixPath | None:
    """Where a member of a wheel belongs in site-packages; None if nowhere."""
    if member.is_absolute() or ".." in member.parts:
        raise BuildError(f"a wheel has a member {member}")
    parts = member.parts
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
            return None
        parts = parts[2:]
    if parts[0].endswith(".dist-info"):
        return None if parts[-1] in _DROPPED_NOTES else PurePosixPath(*parts)
    if _DROPPED_FOLDERS.intersection(parts[1:-1]) or PurePosixPath(parts[-1]).suffix in _DROPPED_SUFFIXES:
        return None
    return PurePosixPath(*parts)
