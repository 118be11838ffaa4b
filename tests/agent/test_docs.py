"""docs/agent.md says what the code does."""

import re
import tomllib
from pathlib import Path

import pytest

from cni_plugin.agent import config
from cni_plugin.agent.config import Config
from cni_plugin.agent.metrics import Metrics

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "agent.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The table whose first heading this is: the name in the first cell -> the other cells."""
    lines = TEXT[TEXT.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip("` "): rest for first, *rest in cells}


def test_every_key_is_documented_and_no_other() -> None:
    assert list(rows("key")) == [setting.key for setting in config.SETTINGS]


@pytest.mark.parametrize("key", [setting.key for setting in config.SETTINGS])
def test_the_default_of_a_key_is_the_codes(key: str) -> None:
    stated = tomllib.loads(f"value = {rows('key')[key][0].strip('`')}")["value"]
    setting = config.BY_KEY[key]
    assert setting.parse(stated) == getattr(Config(), setting.attribute)


def test_every_metric_is_documented_with_its_own_words_and_no_other() -> None:
    metrics = Metrics("/nowhere", "/nowhere", lambda: 0.0)
    told = {
        each.name + ("_total" if each.type == "counter" else ""): each.documentation
        for each in metrics.registry.collect()
    }
    assert {name: cells[0] for name, cells in rows("metric").items()} == told


def test_the_numbers_in_the_text_are_the_codes() -> None:
    defaults = Config()
    for number in (defaults.routes_protocol, defaults.vxlan_vni, defaults.vxlan_port):
        assert re.search(rf"\b{number}\b", TEXT)
    from cni_plugin.agent.vxlan import GROUP

    assert f"link group {GROUP}" in TEXT
