"""What goes into a payload from elsewhere, and the lock of it.

`FOLDER/debs`, `FOLDER/wheels` and `FOLDER/lock.json` with what was asked for and the sha256 of what came. As long as
the same is asked for, the locked files are used and nothing is downloaded; a locked file that has changed is an error.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugin.payload.faults import BuildError


@dataclass(frozen=True)
class Package:
    """A package of Debian 12. `licence` is an SPDX expression: most copyright files there give none by machine."""

    name: str
    licence: str
    texts_only: bool = False


# libc6 is the node's. The closure of shared libraries is checked: a missing package is an error of the build.
PACKAGES = (
    Package("python3.11-minimal", "PSF-2.0"),
    Package("libpython3.11-minimal", "PSF-2.0"),
    Package("libpython3.11-stdlib", "PSF-2.0"),
    Package("libbz2-1.0", "bzip2-1.0.6"),
    Package("libexpat1", "MIT"),
    Package("libffi8", "MIT"),
    Package("libgcc-s1", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    Package("liblzma5", "LicenseRef-public-domain"),
    # pyroute2 imports it, whatever is asked of pyroute2.
    Package("libsqlite3-0", "blessing"),
    Package("libssl3", "Apache-2.0"),
    Package("libstdc++6", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    Package("libuuid1", "BSD-3-Clause"),
    Package("zlib1g", "Zlib"),
    # The copyright file of GCC's libraries, and the texts that copyright files refer to.
    Package("gcc-12-base", "GPL-3.0-or-later WITH GCC-exception-3.1", texts_only=True),
    Package("base-files", "GPL-2.0-or-later", texts_only=True),
)
# What builds and is not shipped.
TOOLS = ("patchelf", "python3-pip-whl")


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Inputs:
    """The inputs of one architecture, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = folder / "lock.json"

    def get(
        self, kind: str, asked: Sequence[str], fetch: Callable[[Path], Sequence[Path]], refresh: bool
    ) -> dict[Path, str]:
        """The files of `kind` for what is `asked`, with their sha256; `fetch` fills an empty folder if need be."""
        folder = self._folder / kind
        record = self._read()
        entry = record.get(kind)
        if refresh or entry is None or entry["asked"] != list(asked):
            return self._renew(kind, folder, asked, fetch)
        files = {folder / name: digest for name, digest in entry["files"].items()}
        if not all(path.exists() for path in files):
            return self._renew(kind, folder, asked, fetch)
        for path, digest in files.items():
            if (found := sha256(path)) != digest:
                raise BuildError(
                    f"{path} has sha256 {found}, and {self._lock} says {digest}",
                    f"rm -r {self._folder}, and call again",
                )
        return files

    def _renew(
        self, kind: str, folder: Path, asked: Sequence[str], fetch: Callable[[Path], Sequence[Path]]
    ) -> dict[Path, str]:
        draft = self._folder / f".{kind}.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        names = sorted(path.name for path in fetch(draft))
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        files = {folder / name: sha256(folder / name) for name in names}
        record = self._read()
        record[kind] = {"asked": list(asked), "files": {path.name: digest for path, digest in files.items()}}
        new = self._lock.with_name(".lock.json.new")
        new.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        new.rename(self._lock)
        return files

    def _read(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._lock.read_text())
        except FileNotFoundError:
            return {}
        return record
