"""docs/shim.md and docs/interceptors.md say what the code does."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from cri_shim import config, matching, rules
from cri_shim.capabilities import Services, Setup
from cri_shim.chain import Interceptor
from cri_shim.interceptors.audit import WHAT
from cri_shim.interceptors.metrics import Metrics
from cri_shim.reload import RELOADED
from cri_shim.rules import Counts, Rule

REPOSITORY = Path(__file__).resolve().parents[2]
SHIM = (REPOSITORY / "docs" / "shim.md").read_text()
INTERCEPTORS = (REPOSITORY / "docs" / "interceptors.md").read_text()
SOURCES = "".join(path.read_text() for path in sorted((REPOSITORY / "cri_shim").rglob("*.py")))


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """The table whose first heading this is: the name in backquotes in the first cell -> the other cells."""
    lines = text[text.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {name: rest for first, *rest in cells for name in re.findall(r"`([^`]+)`", first)}


KEYS = rows(SHIM, "key")
RULE_KEYS = rows(SHIM, "key of a rule")


def capabilities() -> dict[str, Any]:
    """Modules of the built-in capabilities that have settings."""
    modules = {name: importlib.import_module(place.partition(":")[0]) for name, place in config.BUILT_IN.items()}
    return {name: module for name, module in modules.items() if getattr(module, "DEFAULTS", None)}


def named_elsewhere(word: str) -> bool:
    """Whether another document is the place for it."""
    return any(f"`{word}`" in path.read_text() for path in REPOSITORY.glob("docs/*.md") if path.name != "shim.md")


def test_every_key_is_documented_and_no_other() -> None:
    known = {row.key for row in config.SETTINGS if row.key != "rule"}
    known |= {f"{name}.{row.key}" for name, module in capabilities().items() for row in module.SETTINGS}
    assert set(KEYS) - known == set()
    assert [key for key in sorted(known - set(KEYS)) if not named_elsewhere(key)] == []


def test_every_capability_has_a_default_for_each_of_its_keys() -> None:
    for module in capabilities().values():
        assert set(module.DEFAULTS) == {row.key for row in module.SETTINGS}


@pytest.mark.parametrize("key", KEYS)
def test_the_default_of_a_key_is_the_codes(key: str) -> None:
    stated = tomllib.loads(f"value = {KEYS[key][0].strip('`')}")["value"]
    table, _, inner = key.rpartition(".")
    if table in capabilities():
        assert stated == capabilities()[table].DEFAULTS[inner]
    else:
        row = config.BY_KEY[key]
        assert row.parse(stated) == getattr(config.Config(), row.attribute)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_needs_a_restart_says_so(key: str) -> None:
    row = config.BY_KEY.get(key)
    assert ("*restart*" in KEYS[key][1]) is (row is not None and row.attribute not in RELOADED)


def test_every_key_of_a_rule_is_documented_with_its_default() -> None:
    assert set(RULE_KEYS) == {row.key for row in rules.KEYS}
    for field in dataclasses.fields(Rule):
        stated = RULE_KEYS[field.name][0].strip("`")
        default = field.default
        if stated and default is not dataclasses.MISSING:
            assert tomllib.loads(f"value = {stated}")["value"] == default


def test_every_event_of_the_log_is_documented() -> None:
    written = set(re.findall(r'(?:event|_tell)\(\s*"([\w-]+)"', SOURCES)) | {"log-dropped"}
    documented = set(rows(SHIM, "event"))
    assert documented - written == set()
    assert [event for event in sorted(written - documented - {"audit"}) if not named_elsewhere(event)] == []


def test_every_pattern_of_a_match_is_documented() -> None:
    assert set(rows(INTERCEPTORS, "in `match` and `unless`")) == {row.key for row in matching.KEYS}


def test_every_outcome_of_a_rule_is_documented() -> None:
    assert list(rows(INTERCEPTORS, "outcome")) == list(Counts.__slots__)


def test_every_metric_is_documented_and_no_other() -> None:
    services = Services()
    metrics = Metrics(Setup("metrics", services=services))
    services.vitals.reloads["done"] = services.vitals.failures["x"] = services.vitals.lost_lines["audit"] = 1
    found = set(re.findall(r"^# TYPE (podwire_\w+) ", generate_latest(metrics.registry).decode(), re.MULTILINE))
    found = {name for name in found if not name.endswith("_created")}
    assert set(rows(INTERCEPTORS, "metric")) == found


def test_the_audit_line_shown_is_of_an_audited_method() -> None:
    [shown] = [json.loads(text) for text in re.findall(r"```json\n(.*?)\n```", INTERCEPTORS, re.DOTALL)]
    assert (shown["event"], shown["method"] in WHAT) == ("audit", True)
    for method in WHAT:
        assert method in INTERCEPTORS


def test_the_members_of_an_interceptor_and_of_a_setup_are_documented() -> None:
    members = " ".join(rows(INTERCEPTORS, "member"))
    public = [name for name in vars(Interceptor) if not name.startswith("_")]
    for name in [*public, *inspect.get_annotations(Interceptor)]:
        assert name in members, name
    assert set(rows(INTERCEPTORS, "`Setup`")) == {field.name for field in dataclasses.fields(Setup)}


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", INTERCEPTORS, re.DOTALL), ids=lambda text: text[:12])
def test_every_toml_block_is_toml_with_right_rules(block: str) -> None:
    rules.parse(tomllib.loads(block).get("rule", []))
