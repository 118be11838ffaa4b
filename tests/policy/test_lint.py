"""Linters as tests. A missing tool is a skip with its name, and a failure with CI=true."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Caches of linters belong to the build, not to the working tree.
CACHES = REPOSITORY / "build" / "lint"


def tracked(*patterns: str) -> list[str]:
    """Files of this version of the project, and new ones that no rule ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted({name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()})


def is_bash(name: str) -> bool:
    """Whether a file says that bash or sh runs it, or is a part that such a script reads."""
    with (REPOSITORY / name).open("rb") as file:
        first = file.readline()
    if first.startswith(b"# shellcheck shell="):
        return True
    return first.startswith(b"#!") and first.rstrip().endswith((b"sh", b"bash"))


def run(*command: str) -> None:
    """Run a linter in the repository; what it says is the failure."""
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=55)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command[:6])}\n{done.stdout}{done.stderr}", pytrace=False)


def tool(name: str) -> str:
    """Path of a tool, in the environment first."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed", pytrace=False)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", "--quiet", "--cache-dir", str(CACHES / "ruff"), ".")


def test_ruff_would_format_nothing_differently() -> None:
    run(tool("ruff"), "format", "--check", "--quiet", "--cache-dir", str(CACHES / "ruff"), ".")


def test_mypy_strict_finds_nothing() -> None:
    run(tool("mypy"), "--cache-dir", str(CACHES / "mypy"))


def test_shellcheck_finds_nothing() -> None:
    scripts = [name for name in tracked() if is_bash(name)]
    assert "install.sh" in scripts
    assert ".ci/run" in scripts
    assert "cni_plugin/install/host/words.sh" in scripts
    run(tool("shellcheck"), *scripts)
