"""What Debian 12's own Python does for a payload, whichever Python builds: `python3.11 inside.py VERB ARGUMENT...`.

    compile TREE FOLDER...          bytecode beside every source below the folders of TREE
    cni SOURCES FOLDER INTERPRETER  the CNI executable
    archive TREE FILE               TREE as FILE, a .tar.gz

A script that needs the standard library only. One version of Python, zlib and marshal for all of it makes the same
bytes from the same input on every machine. Bytecode is the same on every architecture.
"""

import gzip
import importlib.util
import os
import sys
import tarfile
import warnings
from importlib._bootstrap_external import _code_to_hash_pyc  # type: ignore[attr-defined]
from pathlib import Path

# Half the time of level 6, for 3 % more.
_LEVEL = 4


def compile_below(tree: Path, folders: "list[str]") -> None:
    """Unchecked-hash bytecode (PEP 552): what becomes of the sources' times does not matter."""
    warnings.simplefilter("ignore")
    sources = sorted(path for folder in folders for path in (tree / folder).rglob("*.py"))
    for source in sources:
        text = source.read_bytes()
        # The import system replaces this name by the place the module is loaded from.
        code = compile(text, source.relative_to(tree).as_posix(), "exec", dont_inherit=True, optimize=0)
        target = Path(importlib.util.cache_from_source(str(source), optimization=""))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(_code_to_hash_pyc(code, importlib.util.source_hash(text), False))


def make_cni(sources: Path, folder: Path, interpreter: str) -> None:
    """The executable of `cni_plugin.packaging` in `sources`, which names `interpreter` in its first line."""
    sys.path.insert(0, str(sources))
    from cni_plugin import packaging

    packaging.build(folder, interpreter)


def archive(tree: Path, file: Path) -> None:
    """Sorted, with fixed owner, times and modes; the top folder is TREE's name."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = 0
        if not member.issym():
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        if member.islnk():
            raise ValueError(f"{member.name} would be a hard link")
        return member

    paths = sorted(tree.rglob("*"), key=lambda path: path.relative_to(tree).parts)
    with file.open("wb") as raw:
        # An empty name and no time: the header of the stream says nothing of where and when.
        stream = gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0)
        with stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in (tree, *paths):
                # Files of a cached layer have two names; inode numbers must not matter.
                tar.inodes = {}  # type: ignore[attr-defined]
                name = tree.name if path == tree else f"{tree.name}/{path.relative_to(tree).as_posix()}"
                tar.add(path, name, recursive=False, filter=plain)
        raw.flush()
        os.fsync(raw.fileno())


def main(arguments: "list[str]") -> None:
    """Do what the first argument says."""
    verb, *rest = arguments
    if verb == "compile":
        compile_below(Path(rest[0]), rest[1:])
    elif verb == "cni":
        make_cni(Path(rest[0]), Path(rest[1]), rest[2])
    elif verb == "archive":
        archive(Path(rest[0]), Path(rest[1]))
    else:
        sys.exit(f"inside.py: no verb {verb}")


if __name__ == "__main__":
    main(sys.argv[1:])
