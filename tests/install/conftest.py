"""A fresh clone of this repository, installed by its own install.sh."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

Install = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Commands that fail before they would do anything need no root.
        if "tests/install/" in item.path.as_posix() and "clone" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.root)


def environment() -> dict[str, str]:
    """As a user has it: no trace of the environment and the session that run the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "PYTEST"))}
    return {**kept, "LC_ALL": "C.UTF-8"}


def install(folder: Path, arguments: Sequence[str], timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run install.sh of a folder to its end, without a terminal and without input."""
    return subprocess.run(
        ["./install.sh", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh clone after `./install.sh build`. Space in its path: not every user's folder has none."""
    folder = tmp_path_factory.mktemp("a clone") / "podwire"
    # --no-local: hard links would tie the clone's files to this repository's.
    subprocess.run(
        [
            "git",
            "-c",
            "safe.directory=*",
            "clone",
            "--quiet",
            "--no-local",
            "--depth=1",
            f"file://{REPOSITORY}",
            folder,
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    done = install(folder, ["build"])
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder
    # Nothing may run on when a test of --keep has failed half way.
    install(folder, ["demo", "--stop"])
