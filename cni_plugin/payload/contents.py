"""MANIFEST.json: every file of a payload with its digest and mode, and every package with version and licence."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cni_plugin.payload.inputs import sha256

NAME = "MANIFEST.json"


@dataclass(frozen=True)
class Part:
    """One package in the payload; `source` is the file that it came as, with its sha256."""

    name: str
    version: str
    licence: str
    source: str


def write(tree: Path, identity: str, version: str, architecture: str, python: str, parts: Sequence[Part]) -> None:
    """Describe all of `tree` in its MANIFEST.json, which does not list itself."""
    manifest = {
        "identity": identity,
        "version": version,
        "arch": architecture,
        "python": python,
        "packages": [asdict(part) for part in sorted(parts, key=lambda part: (part.name, part.source))],
        "files": {
            path.relative_to(tree).as_posix(): _entry(path)
            for path in sorted(tree.rglob("*"))
            if path.is_symlink() or path.is_file()
        },
    }
    (tree / NAME).write_text(json.dumps(manifest, indent=1) + "\n")


def _entry(path: Path) -> dict[str, str]:
    if path.is_symlink():
        return {"link": str(path.readlink())}
    return {"sha256": sha256(path), "mode": "0755" if path.stat().st_mode & 0o100 else "0644"}
