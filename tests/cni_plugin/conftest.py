"""Property tests are the same at every run, and leave nothing behind; a ledger on a folder of the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cni_plugin.claims import Ledger
from cni_plugin.packaging import build
from tests.cni_plugin.executable import INTERPRETER
from tests.cni_plugin.samples import COOKIE

settings.register_profile("podwire", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("podwire")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(str(tmp_path / "run/state"), COOKIE)
    yield ledger
    os.close(ledger.descriptor)


@pytest.fixture(scope="session")
def podwire(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable; tests that change it build their own."""
    return build(tmp_path_factory.mktemp("podwire") / "bin", INTERPRETER)
