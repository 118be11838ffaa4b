"""A payload that was built and unpacked, and the places it is run in."""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cni_plugin.payload import debian
from cni_plugin.payload.build import Builder
from tests.lab.images import CACHE

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "build" / "payload"
SOURCES = ("cni_plugin", "cri_shim", "conf", "pyproject.toml", "LICENSE")


@dataclass(frozen=True)
class Payload:
    """An archive and its tree, unpacked somewhere."""

    archive: Path
    tree: Path
    architecture: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """MANIFEST.json."""
        manifest: dict[str, Any] = json.loads((self.tree / "MANIFEST.json").read_text())
        return manifest

    def elf_files(self) -> Iterator[Path]:
        """Executables and shared objects."""
        for path in sorted(self.tree.rglob("*")):
            if path.is_file() and path.read_bytes()[:4] == b"\x7fELF":
                yield path


def snapshot(folder: Path) -> Path:
    """The sources as they are now: two builds of one state, whatever is edited meanwhile."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    return folder


def build(repository: Path, architecture: str, out: Path, work: Path = WORK) -> Path:
    """A payload as `./install.sh build --payload` makes it; layers and inputs are those of earlier builds."""
    return Builder(repository, work, architecture, lambda text: None).archive(out)


def unpack(archive: Path, folder: Path, architecture: str) -> Payload:
    """The archive's one tree, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    (tree,) = folder.iterdir()
    return Payload(archive, tree, architecture)


def run(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: str | Path = "/", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """A command with nothing but `env` in its environment; what it wrote is in the error when it fails."""
    argv = [str(word) for word in command]
    done = subprocess.run(argv, env=dict(env or {}), cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise AssertionError(f"{argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def system(name: str, packages: Sequence[tuple[str, str]]) -> Path:
    """Packages of Debian 12 unpacked into one folder below build/lab, downloaded once."""
    target = CACHE / f"payload-{name}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"payload-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        draft = CACHE / f".payload-{name}.new"
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "debs").mkdir(parents=True)
        for package in debian.download(packages, draft / "debs", lambda text: None):
            debian.unpack(package, draft / "root")
        (draft / "root").rename(target)
        shutil.rmtree(draft)
    return target
