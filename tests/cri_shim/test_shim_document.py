"""docs/shim-operation.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cri_shim import events, handover
from cri_shim.__main__ import arguments
from cri_shim.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = re.sub(r"\s+", " ", (REPOSITORY / "docs" / "shim-operation.md").read_text())


@pytest.mark.parametrize(
    "words",
    [
        f"`drain_seconds` ({Config().drain_seconds:g})",
        f"(`handover.connection_seconds`, {Config().handover_connection_seconds:g},",
        f"`handover.drain_seconds` ({Config().handover_drain_seconds:g})",
        f"`handover.memory_mb` ({Config().handover_memory_mb})",
        f"{Config().handover_memory_seconds:g} seconds apart",
        f"waits up to {handover.UPSTREAM_SECONDS:g} seconds for the runtime",
        f"{events.RING_EVENTS} events or {events.RING_BYTES >> 20} MiB wait",
        f"stays away for {events.AWAY_SECONDS / 60:g} minutes",
    ],
)
def test_numbers_are_those_of_the_code(words: str) -> None:
    assert words in DOCUMENT


def test_every_option_is_documented() -> None:
    options = {f"--{name}" for name in vars(arguments([]))}
    assert options == set(re.findall(r"--[a-z]+", DOCUMENT[: DOCUMENT.index("## Signals")]))
