"""Debian 12's Python, made relocatable: bin/python3, the libraries it and the wheels need, a trimmed standard library.

The interpreter finds lib/python3.11 beside itself. Debian's `site` knows dist-packages only, and it is frozen into the
interpreter, so sitecustomize puts site-packages on the path. Shared libraries are found by an RPATH of $ORIGIN: RPATH
and not RUNPATH, because LD_LIBRARY_PATH of a node's service manager must not come first.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from cni_plugin.payload.faults import BuildError

TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
# What a node has: glibc, and nothing else.
GLIBC = frozenset(
    {
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "librt.so.1",
        "libdl.so.2",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }
)
# Left out, with the reason: not reachable from a service, or bound to a library that nothing here needs.
_LEFT_OUT = {
    "a test, or a tool of one": ("test", "unittest/test", "ctypes/test", "_xxtestfuzz*", "_test*", "_ctypes_test*"),
    "for people at a screen": ("curses", "_curses*", "readline*", "rlcompleter.py", "turtle*", "tkinter", "idlelib"),
    "makes or installs software": ("ensurepip", "venv", "lib2to3", "distutils", "_distutils_system_mod.py"),
    "documentation": ("pydoc_data", "this.py", "antigravity.py", "__phello__", "__hello__.py"),
    "databases in files": ("dbm", "_dbm*", "_gdbm*"),
    "removed from Python": ("crypt.py", "_crypt*", "nis*", "ossaudiodev*", "msilib"),
    "examples of C modules": ("xxlimited*", "_xxsubinterpreters*"),
    "about Debian's own folders": ("EXTERNALLY-MANAGED", "sitecustomize.py", "LICENSE.txt"),
}
_SITE_CUSTOMIZE = """\
import sys

sys.path.append(__file__.rpartition("/")[0] + "/site-packages")
"""
_LIBRARY = "lib/python3.11"
SITE = f"{_LIBRARY}/site-packages"


def place(root: Path, tree: Path) -> None:
    """Copy interpreter and standard library out of the unpacked packages at `root`."""
    (tree / "bin").mkdir(parents=True)
    shutil.copyfile(root / "usr/bin/python3.11", tree / "bin/python3")
    (tree / "bin/python3").chmod(0o755)
    source, target = root / "usr" / _LIBRARY, tree / _LIBRARY
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, target, ignore=left_out, ignore_dangling_symlinks=True, copy_function=shutil.copyfile)
    for patterns in _LEFT_OUT.values():
        for pattern in patterns:
            for found in (*target.glob(pattern), *target.glob(f"lib-dynload/{pattern}")):
                if found.is_dir():
                    shutil.rmtree(found)
                else:
                    found.unlink(missing_ok=True)
    (target / "sitecustomize.py").write_text(_SITE_CUSTOMIZE)
    (tree / SITE).mkdir()


def add_libraries(root: Path, tree: Path, architecture: str, patchelf: list[str], env: Mapping[str, str]) -> None:
    """Put every shared library that something in `tree` needs, and glibc has not, into lib/, found by RPATH."""
    folders = [root / part / TRIPLETS[architecture] for part in ("usr/lib", "lib")]
    waiting = list(elf_files(tree))
    while waiting:
        file = waiting.pop()
        needed = [name for name in _patchelf(patchelf, env, "--print-needed", file) if name not in GLIBC]
        for name in needed:
            target = tree / "lib" / name
            if target.exists():
                continue
            found = next((folder / name for folder in folders if (folder / name).exists()), None)
            if found is None:
                raise BuildError(
                    f"{file.relative_to(tree)} needs {name}, which no package of the payload has",
                    "add the package to PACKAGES in cni_plugin/payload/inputs.py, or leave the module out",
                )
            shutil.copyfile(found, target)
            waiting.append(target)
        if needed:
            up = "/".join([".."] * (len(file.relative_to(tree).parts) - 1))
            own = file.parent == tree / "lib"
            rpath = "$ORIGIN" if own else f"$ORIGIN/{up}/lib"
            _patchelf(patchelf, env, "--force-rpath", "--set-rpath", rpath, file)


def elf_files(tree: Path) -> Iterator[Path]:
    """Every executable and shared object below `tree`."""
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _patchelf(patchelf: list[str], env: Mapping[str, str], *arguments: str | Path) -> list[str]:
    done = subprocess.run([*patchelf, *map(str, arguments)], env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"patchelf {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout.split()
