"""Payloads for the nodes, built from this working tree; inputs and base layer are those of build/payload."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab.images import REPOSITORY

_SOURCES = ("cni_plugin", "cri_shim", "conf", "pyproject.toml", "README.md", "LICENSE")


def build(folder: Path, version: str = "") -> Path:
    """The archive, made in `folder`; with a `version` the project calls itself so."""
    source = REPOSITORY
    if version:
        source = folder / "source"
        source.mkdir()
        for name in _SOURCES:
            if (REPOSITORY / name).is_dir():
                shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(REPOSITORY / name, source / name)
        project = source / "pyproject.toml"
        project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text()))
    command = [sys.executable, "-m", "cni_plugin.payload", "--work", str(REPOSITORY / "build/payload")]
    built = subprocess.run(
        [*command, "--out", str(folder)], cwd=source, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


def identity(archive: Path) -> str:
    """The name of its one folder."""
    listed = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True, check=True).stdout
    return listed.partition("/")[0]
