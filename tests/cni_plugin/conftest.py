"""Property tests are the same at every run, and leave nothing behind; a ledger on a folder of the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from cni_plugin import claims, foreign, reservations
from cni_plugin.claims import Ledger
from cni_plugin.packaging import build
from tests.cni_plugin.executable import INTERPRETER
from tests.cni_plugin.samples import COOKIE

settings.register_profile("podwire", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("podwire")


@dataclass
class OtherPlugins:
    """The folders in which the first run looks for pods of other plugins, as a test has them."""

    results: Path
    networks: Path


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OtherPlugins:
    """Instead of the machine's own folders: empty ones."""
    found = OtherPlugins(tmp_path / "other/results", tmp_path / "other/networks")
    for folder in (found.results, found.networks):
        folder.mkdir(parents=True)
    monkeypatch.setattr(foreign.survey, "__defaults__", (str(found.results), (str(found.networks),)))
    return found


class Clock:
    """Seconds since boot, moved by hand."""

    def __init__(self) -> None:
        self.now = 100_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(claims, "boot_time", clock)
    monkeypatch.setattr(reservations, "boot_time", clock)
    return clock


@pytest.fixture
def ledger(tmp_path: Path, others: OtherPlugins) -> Iterator[Ledger]:
    ledger = Ledger(str(tmp_path / "run/state"), COOKIE)
    yield ledger
    os.close(ledger.descriptor)


@pytest.fixture(scope="session")
def podwire(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable; tests that change it build their own."""
    return build(tmp_path_factory.mktemp("podwire") / "bin", INTERPRETER)
