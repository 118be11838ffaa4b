"""The story of a payload: inputs, layers, archive.

inputs      packages of Debian 12 and wheels, locked (`inputs`)
workshop    Debian 12's packages of the machine that builds, unpacked as they are: its Python and patchelf work here
base layer  interpreter, libraries, dependencies, licences: cached, as only inputs or the builder change it
tree        base layer, our packages, conf/, the CNI executable, commands, MANIFEST.json
archive     podwire-VERSION-ARCH.tar.gz and its .sha256
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cni_plugin.payload import contents, debian, inputs, interpreter, licences, wheels
from cni_plugin.payload.contents import Part
from cni_plugin.payload.faults import BuildError, last_line

ARCHITECTURES = tuple(interpreter.TRIPLETS)
PLACE = "/opt/podwire/versions"
LARGEST = 60 * 1000 * 1000
COMMANDS = {
    "podwire-agent": "cni_plugin.agent",
    "podwire-cri": "cri_shim.cli",
    "podwire-net": "cni_plugin.net",
    "podwire-node": "cni_plugin.install",
    "podwire-shim": "cri_shim",
}
# Called through any chain of links, from any folder. -B: a payload is not written to.
_COMMAND = """\
#!/bin/sh
real=$(readlink -f "$0") || exit 127
exec "${{real%/*}}/python3" -IB -m {module} "$@"
"""
_SHIPPED = ("cni_plugin", "cri_shim", "conf")
_NOT_SHIPPED = "cni_plugin/payload/"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Workshop:
    """Debian 12's tools on the machine that builds: how to call its Python and patchelf, and with what environment."""

    python: list[str]
    patchelf: list[str]
    pip: Path
    env: Mapping[str, str]

    def inside(self, *arguments: str | Path) -> None:
        """Let the payload's kind of Python run a verb of `inside`."""
        script = Path(__file__).with_name("inside.py")
        done = subprocess.run(
            [*self.python, str(script), *map(str, arguments)],
            env=dict(self.env),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildError(f"{script.name} {arguments[0]}: {last_line(done.stderr)}")


@dataclass(frozen=True)
class Base:
    """The base layer in `tree`, the packages it is made of, and the key that it was made for."""

    tree: Path
    parts: list[Part]
    key: str


class Builder:
    """Builds payloads of one repository for one architecture; what is kept lies below `work`."""

    def __init__(self, repository: Path, work: Path, architecture: str, say: Say, refresh: bool = False) -> None:
        if architecture not in ARCHITECTURES:
            raise BuildError(f"no payload for {architecture}", f"--arch takes {' or '.join(ARCHITECTURES)}")
        self._repository, self._work = repository, work
        self._architecture, self._host = architecture, debian.host_architecture()
        self._say, self._refresh = say, refresh
        self._project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
        self._fetched: set[tuple[str, str]] = set()

    def archive(self, out: Path) -> Path:
        """Make the archive in `out`; returns its path."""
        self._work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        with _turn(self._work / "lock", self._say):
            workshop = self._workshop()
            base = self._base(workshop)
            tree = self._tree(workshop, base)
            return self._pack(workshop, tree, out)

    # --- inputs

    def _debs(self, architecture: str) -> dict[Path, str]:
        """Debian's packages of an architecture; with the tools, where it is that of this machine."""
        wanted = [(package.name, architecture) for package in inputs.PACKAGES]
        if architecture == self._host:
            wanted += [(tool, architecture) for tool in inputs.TOOLS]
        return self._get(
            architecture, "debs", [name for name, _ in wanted], lambda to: debian.download(wanted, to, self._say)
        )

    def _wheels(self, workshop: Workshop) -> dict[Path, str]:
        asked = sorted(self._project["dependencies"])

        def fetch(to: Path) -> list[Path]:
            self._say(f"wheels for {self._architecture}")
            return wheels.download(asked, self._architecture, workshop.python, dict(workshop.env), workshop.pip, to)

        return self._get(self._architecture, "wheels", asked, fetch)

    def _get(
        self, architecture: str, kind: str, asked: Sequence[str], fetch: Callable[[Path], Sequence[Path]]
    ) -> dict[Path, str]:
        kept = inputs.Inputs(self._work / "inputs" / architecture)
        refresh = self._refresh and (architecture, kind) not in self._fetched
        self._fetched.add((architecture, kind))
        return kept.get(kind, asked, fetch, refresh)

    # --- layers

    def _workshop(self) -> Workshop:
        debs = self._debs(self._host)
        root = self._unpacked(debs, self._host)
        triplet = interpreter.TRIPLETS[self._host]
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "LD_LIBRARY_PATH": f"{root}/usr/lib/{triplet}:{root}/lib/{triplet}",
        }
        pip = next((root / "usr/share/python-wheels").glob("pip-*.whl"))
        # -s, -P: neither a user's folder nor the current one. Not -I, which would ignore the hash seed.
        shop = Workshop([f"{root}/usr/bin/python3.11", "-BsP"], [f"{root}/usr/bin/patchelf"], pip, env)
        probe = subprocess.run([*shop.python, "-c", "import ssl"], env=env, capture_output=True, text=True, check=False)
        if probe.returncode:
            raise BuildError(
                f"Debian 12's Python does not run here: {last_line(probe.stderr)}",
                "build on a system with glibc 2.36 or later: Debian 12, Ubuntu 23.04, or newer",
            )
        return shop

    def _unpacked(self, debs: Mapping[Path, str], architecture: str) -> Path:
        """All packages of an architecture in one folder."""

        def fill(root: Path) -> None:
            for deb in debs:
                debian.unpack(deb, root)

        return _cached(self._work / "unpacked", architecture, _key(debs), fill)

    def _base(self, workshop: Workshop) -> Base:
        debs, found = self._debs(self._architecture), self._wheels(workshop)
        builder = {path: inputs.sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))}
        # The tools of this machine are part of what the bytes come from.
        key = _key({**debs, **found, **builder, **self._debs(self._host)})

        def fill(tree: Path) -> None:
            self._say("base layer: interpreter, standard library, dependencies")
            root = self._unpacked(debs, self._architecture)
            interpreter.place(root, tree)
            site, texts = tree / interpreter.SITE, tree / "LICENSES"
            parts = list(self._debian_parts(debs, root, texts))
            for wheel, digest in found.items():
                name, version, licence = licences.of_wheel(site / wheels.unpack(wheel, site), texts)
                parts.append(Part(name, version, licence, f"wheel {wheel.name}, sha256 {digest}"))
            interpreter.add_libraries(root, tree, self._architecture, workshop.patchelf, workshop.env)
            self._say("base layer: bytecode")
            workshop.inside("compile", tree, "lib")
            (tree / "parts.json").write_text(json.dumps([asdict(part) for part in parts]))

        tree = _cached(self._work / "base", self._architecture, key, fill)
        return Base(tree, [Part(**each) for each in json.loads((tree / "parts.json").read_text())], key)

    def _debian_parts(self, debs: Mapping[Path, str], root: Path, texts: Path) -> Iterator[Part]:
        packages = {package.name: package for package in inputs.PACKAGES}
        for deb, digest in debs.items():
            # NAME_VERSION_ARCH.deb, with a colon of the version as %3a.
            name, version, _ = deb.name.split("_")
            package = packages.get(name)
            if package is None:
                continue
            if name != "base-files":
                licences.of_package(name, root, texts)
            if not package.texts_only:
                version = version.replace("%3a", ":")
                yield Part(name, version, package.licence, f"Debian 12 package {deb.name}, sha256 {digest}")

    # --- what is ours

    def _sources(self) -> dict[str, bytes]:
        """Our files by their name in the repository, read once: a payload is of one moment."""
        found = {}
        for folder in _SHIPPED:
            for path in sorted((self._repository / folder).rglob("*")):
                name = path.relative_to(self._repository).as_posix()
                hidden = any(part.startswith(".") or part == "__pycache__" for part in Path(name).parts)
                if path.is_file() and not hidden and not name.startswith(_NOT_SHIPPED) and path.suffix != ".pyc":
                    found[name] = path.read_bytes()
        found["LICENSE"] = (self._repository / "LICENSE").read_bytes()
        return found

    def _tree(self, workshop: Workshop, base: Base) -> Path:
        sources = self._sources()
        version = self._project["version"]
        digest = hashlib.sha256(f"{base.key} {version} {self._architecture}\n".encode())
        for name, content in sources.items():
            digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        identity = f"{version}-{digest.hexdigest()[:12]}"
        python = f"{PLACE}/{identity}/bin/python3"

        def fill(tree: Path) -> None:
            self._say(f"{identity}: our packages")
            shutil.copytree(base.tree, tree, dirs_exist_ok=True, copy_function=os.link)
            (tree / "parts.json").unlink()
            site = interpreter.SITE
            for name, content in sources.items():
                _write(tree / _place(name), content)
            metadata = f"Metadata-Version: 2.1\nName: {self._project['name']}\nVersion: {version}\n"
            _write(tree / site / f"podwire-{version}.dist-info/METADATA", metadata.encode())
            workshop.inside("compile", tree, f"{site}/cni_plugin", f"{site}/cri_shim")
            workshop.inside("cni", tree / site, tree / "cni", python)
            for command, module in COMMANDS.items():
                _write(tree / "bin" / command, _COMMAND.format(module=module).encode(), 0o755)
            _settle_modes(tree)
            ours = Part("podwire", version, self._project["license"]["text"], "the repository that built it")
            kind = next(part.version for part in base.parts if part.name == "python3.11-minimal")
            contents.write(tree, identity, version, self._architecture, kind, [ours, *base.parts])

        return _cached(self._work / "tree" / self._architecture, "", identity, fill)

    def _pack(self, workshop: Workshop, tree: Path, out: Path) -> Path:
        target = out / f"podwire-{self._project['version']}-{self._architecture}.tar.gz"
        note = target.with_name(f"{target.name}.sha256")
        if _made_before(target, note, tree.name):
            self._say(f"{tree.name}: {target} is up to date")
            return target
        self._say(f"{tree.name}: archive")
        draft = target.with_name(f".{target.name}.new")
        workshop.inside("archive", tree, draft)
        size = draft.stat().st_size
        if size > LARGEST:
            draft.unlink()
            raise BuildError(
                f"the archive has {size / 1e6:.1f} MB, and at most {LARGEST / 1e6:.0f} are allowed",
                f"see what grew: du -a {tree} | sort -n | tail -n 40",
            )
        draft.rename(target)
        digest = inputs.sha256(target)
        note.write_text(f"{digest}  {target.name}\n")
        self._say(f"{target}: {size / 1e6:.1f} MB, sha256 {digest}")
        return target


def _place(name: str) -> str:
    if name == "LICENSE":
        return "LICENSES/python/podwire/LICENSE"
    return name if name.startswith("conf/") else f"{interpreter.SITE}/{name}"


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _settle_modes(tree: Path) -> None:
    """Whatever umask the builder has, and whatever the inputs' modes were."""
    executable = {tree / "bin" / name for name in (*COMMANDS, "python3")} | {tree / "cni/podwire"}
    for path in (tree, *tree.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path in executable else 0o644)


def _key(files: Mapping[Path, str]) -> str:
    text = "".join(f"{path.name} {digest}\n" for path, digest in sorted(files.items(), key=lambda item: item[0].name))
    return hashlib.sha256(text.encode()).hexdigest()


def _cached(folder: Path, prefix: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The folder for `key`, filled if it is not there; earlier ones with the same prefix are removed."""
    name = f"{prefix}-{key[:16]}" if prefix else key
    target = folder / name
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    fill(draft)
    for other in folder.iterdir():
        if other != draft and other.is_dir() and other.name.startswith((prefix, f".{prefix}")):
            shutil.rmtree(other)
    draft.rename(target)
    return target


def _made_before(archive: Path, note: Path, identity: str) -> bool:
    """Whether `archive` is whole, as `note` beside it says, and the one of `identity`."""
    if not (archive.exists() and note.exists() and note.read_text() == f"{inputs.sha256(archive)}  {archive.name}\n"):
        return False
    with tarfile.open(archive) as tar:
        first = tar.next()
    return first is not None and first.name == identity


@contextmanager
def _turn(path: Path, say: Say) -> Iterator[None]:
    """One build at a time in a work folder."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another build works in {path.parent}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
