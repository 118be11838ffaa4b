"""The payload: what its MANIFEST says, whether that is true, and moving it to its place.

A version is placed by one rename; until then it lies in a folder that nobody reads. So a version folder is always
whole, and the same payload twice is one folder.
"""

import ctypes
import json
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugin.install import entries
from cni_plugin.install.places import Places
from cni_plugin.install.site import NodeError

NAME = "MANIFEST.json"
LAUNCHER = "cni/podwire"
INCOMING = ".incoming-"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,127}\Z")
_SHEBANG = re.compile(rb"#!\S+/bin/python3 ")
# The kernel's BINPRM_BUF_SIZE, less the "#!" and the end of the line.
_LONGEST_LINE = 255
_SHOWN = 10


@dataclass(frozen=True)
class Manifest:
    """What a payload says of itself. `files`: by path, {"sha256", "mode"} or {"link"}."""

    identity: str
    version: str
    arch: str
    files: dict[str, dict[str, Any]]


def read(folder: Path) -> Manifest:
    """The manifest of an unpacked payload. Raises NodeError."""
    path = folder / NAME
    try:
        document = json.loads(path.read_bytes())
        found = Manifest(document["identity"], document["version"], document["arch"], document["files"])
        if not isinstance(found.identity, str) or not _IDENTITY.match(found.identity):
            raise ValueError(f"identity {found.identity!r}")
        if not isinstance(found.files, dict) or not found.files:
            raise ValueError("it lists no files")
        for name in found.files:
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"file {name!r} leads out of the payload")
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise NodeError(f"{path} is no manifest of a payload: {fault}", "push the payload again") from None
    return found


def own() -> Path:
    """The payload that this process runs from. Raises NodeError where it runs from something else."""
    folder = Path(sys.executable).parent.resolve().parent
    if not (folder / NAME).is_file():
        raise NodeError(
            f"{sys.executable} belongs to no payload", "run podwire-node from the payload: PAYLOAD/bin/podwire-node"
        )
    return folder


def faults(folder: Path, manifest: Manifest) -> list[str]:
    """Everything in which a payload's files are not as its manifest says."""
    found = [f"{name}: {why}" for name, entry in manifest.files.items() for why in _judge(folder / name, name, entry)]
    known = {NAME, *manifest.files}
    return found + [f"{name}: not in the manifest" for name in _files(folder) if name not in known]


def _judge(path: Path, name: str, entry: dict[str, Any]) -> Iterator[str]:
    try:
        status = path.lstat()
        if "link" in entry:
            if not stat.S_ISLNK(status.st_mode):
                yield "no link"
            elif os.readlink(path) != entry["link"]:
                yield f"leads to {os.readlink(path)}, not {entry['link']}"
            return
        if not stat.S_ISREG(status.st_mode):
            yield "no regular file"
            return
        content = path.read_bytes()
        if entries.digest(content) != entry["sha256"] and not _is_relocated(name, content, entry["sha256"], path):
            yield f"SHA-256 is {entries.digest(content)}, not {entry['sha256']}"
        wanted = int(entry["mode"], 8) if isinstance(entry["mode"], str) else entry["mode"]
        if stat.S_IMODE(status.st_mode) != wanted:
            yield f"mode is {stat.S_IMODE(status.st_mode):04o}, not {wanted:04o}"
    except OSError as fault:
        yield os.strerror(fault.errno or 0)


def _is_relocated(name: str, content: bytes, sha256: str, path: Path) -> bool:
    """Whether only the launcher's first line differs, which names the interpreter's place."""
    if name != LAUNCHER:
        return False
    original = f"/opt/podwire/versions/{path.parent.parent.name}"
    return entries.digest(_with_interpreter(content, Path(original))) == sha256


def _with_interpreter(launcher: bytes, folder: Path) -> bytes:
    return _SHEBANG.sub(f"#!{folder}/bin/python3 ".encode(), launcher, count=1)


def _files(folder: Path) -> Iterator[str]:
    """Every file and link; not what an interpreter compiled for itself."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        compiled = Path(place).name == "__pycache__"
        for name in [*names, *links]:
            if not compiled:
                yield str(Path(place, name).relative_to(folder))


def place(places: Places, payload: Path) -> tuple[Manifest, bool]:
    """Check an unpacked payload and move it to its version folder; False when that version is there already.

    A version folder that is there and damaged is replaced. Raises NodeError with what is wrong, and changes nothing
    then.
    """
    found = read(payload)
    wrong = faults(payload, found)
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise NodeError(f"the payload {payload} is damaged: {'; '.join(wrong[:_SHOWN])}{more}", "push it again")
    if found.arch != ARCHITECTURES.get(platform.machine(), platform.machine()):
        raise NodeError(f"the payload is for {found.arch}, and this node is {platform.machine()}")
    target = places.version(found.identity)
    if payload.resolve() == target.resolve():
        return found, False
    places.versions.mkdir(parents=True, exist_ok=True)
    if target.exists():
        if not faults(target, read_or_none(target) or found):
            _discard(places, payload)
            return found, False
        aside = places.home / f"{INCOMING}{os.getpid()}-damaged"
        target.rename(aside)
        _move(places, payload, target)
        shutil.rmtree(aside)
    else:
        _move(places, payload, target)
    _sweep(places, payload)
    return found, True


def read_or_none(folder: Path) -> Manifest | None:
    """The manifest where there is a sound one."""
    try:
        return read(folder)
    except NodeError:
        return None


def _move(places: Places, payload: Path, target: Path) -> None:
    source = payload
    if payload.lstat().st_dev != places.home.stat().st_dev:
        source = Path(tempfile.mkdtemp(prefix=INCOMING, dir=places.home)) / payload.name
        shutil.copytree(payload, source, symlinks=True)
    launcher = source / LAUNCHER
    if launcher.is_file():
        content = launcher.read_bytes()
        placed = _with_interpreter(content, target)
        if len(placed.split(b"\n", 1)[0]) > _LONGEST_LINE:
            raise NodeError(f"{target} is too long a path for the first line of the plugin", "use a shorter folder")
        if placed != content:
            entries.put(launcher, entries.described(placed, stat.S_IMODE(launcher.stat().st_mode)), placed)
    _own_by_root(source)
    _sync_filesystem(source)
    source.rename(target)
    entries.sync(places.versions)


def _sync_filesystem(folder: Path) -> None:
    """syncfs(2): thousands of files at once, and only those of this filesystem."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


def _own_by_root(folder: Path) -> None:
    # tar keeps the numbers of whoever packed; what root executes must be root's.
    user, group = os.geteuid(), os.getegid()
    for place_, folders, names in os.walk(folder):
        for name in [".", *folders, *names]:
            path = Path(place_, name)
            status = path.lstat()
            if (status.st_uid, status.st_gid) != (user, group):
                os.chown(path, user, group, follow_symlinks=False)
                if not stat.S_ISLNK(status.st_mode):
                    path.chmod(stat.S_IMODE(status.st_mode))


def _discard(places: Places, payload: Path) -> None:
    """Remove a payload that is not needed, where it was pushed into our own folder."""
    if places.home in payload.parents:
        shutil.rmtree(payload)
        _sweep(places, payload)


def _sweep(places: Places, payload: Path) -> None:
    """Remove the folder that the payload came in, once it is empty."""
    parent = payload.parent
    if parent.name.startswith(INCOMING) and parent.parent == places.home and not any(parent.iterdir()):
        parent.rmdir()


def present(places: Places) -> list[str]:
    """The identities of the versions on this node."""
    if not places.versions.is_dir():
        return []
    return sorted(path.name for path in places.versions.iterdir() if path.is_dir())


def in_use(places: Places, identity: str) -> bool:
    """Whether a process other than this one runs from a version."""
    folder = f"{places.version(identity).resolve()}/"
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.readlink(f"/proc/{name}/exe").startswith(folder):
                    return True
            except OSError:
                continue
    return False


def remove(places: Places, identity: str) -> None:
    """Remove a version; the link `current` goes first when it leads there."""
    folder = places.version(identity)
    if places.current.is_symlink() and os.readlink(places.current) in (str(folder), f"versions/{identity}"):
        places.current.unlink()
    if folder.exists():
        # Renamed first: whatever happens while it is removed, no half version has the name of a whole one.
        going = places.home / f"{INCOMING}{identity}.going"
        shutil.rmtree(going, ignore_errors=True)
        folder.rename(going)
        shutil.rmtree(going)


def sweep(places: Places) -> None:
    """Remove what pushes and removals that were cut off left, and our folders when they are empty."""
    if not places.home.is_dir():
        return
    for path in places.home.glob(f"{INCOMING}*"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in (places.versions, places.home):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
