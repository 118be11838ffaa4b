"""docs/shim-and-plugin.md names what there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cri_shim import config
from cri_shim.cli import __main__ as cli
from cri_shim.config import READINESS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/shim-and-plugin.md").read_text()
SOURCES = ("garbage.py", "native.py", "interceptors/network_config.py", "interceptors/network_ready.py")


def first_cells(heading: str) -> set[str]:
    table = TEXT[TEXT.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return {row.split("|")[1].strip(" `") for row in table}


def test_every_key_is_named_and_no_other() -> None:
    known = {key for key in config.BY_KEY if key.startswith(("network.", "native."))}
    assert set(re.findall(r"`((?:network|native)\.\w+)`", TEXT)) == known


def test_every_value_of_readiness_is_told() -> None:
    assert first_cells("`network.ready`") == set(READINESS)


def test_every_event_is_told_and_no_other() -> None:
    logged = re.compile(r"_log\.event\(\s*\"([\w-]+)\"")
    known = {name for source in SOURCES for name in logged.findall((ROOT / "cri_shim" / source).read_text())}
    assert first_cells("event") == known


@pytest.mark.parametrize(
    "command", ["inspect", "timeline", "top", "status", "sandbox run", "sandbox list", "sandbox stop", "sandbox remove"]
)
def test_a_commands_options_are_the_documented_ones(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.arguments([*command.split(), "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    (line,) = re.findall(rf"^podwire-cri {command} .*$", TEXT, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", line)) == known
