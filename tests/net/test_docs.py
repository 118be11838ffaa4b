"""docs/podwire-net.md says what the command does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.net.__main__ import main
from cni_plugin.net.collect import REMOVERS
from cni_plugin.net.doctor import CHECKS
from cni_plugin.net.findings import SEVERITIES
from tests.net.conftest import NetNode

TEXT = (Path(__file__).parents[2] / "docs" / "podwire-net.md").read_text()


def section(title: str) -> str:
    """The text below a heading."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """A table's rows whose first cell is one word in backquotes."""
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))


def test_the_table_of_checks_is_the_registry() -> None:
    assert rows(section("doctor")) == {check.name: check.looks_at for check in CHECKS.values()}


def test_the_table_of_garbage_is_what_gc_can_remove() -> None:
    assert set(rows(section("audit"))) == set(REMOVERS)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_every_severity_is_explained(severity: str) -> None:
    assert f"`{severity}`" in section("doctor")


def shape(value: Any) -> Any:
    """A document with its values replaced by their types; of a list, the first entry counts."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def documents(title: str) -> list[Any]:
    """The JSON documents shown in a section."""
    return [json.loads(text) for text in re.findall(r"^(\{$.*?^\}$)", section(title), re.MULTILINE | re.DOTALL)]


@pytest.mark.root
def test_the_json_documents_shown_have_the_shape_of_real_ones(node: NetNode) -> None:
    node.configure("10.244.0.0/24", "fd00:10:244::/64")
    pod = node.add("web", (8080, 80))
    [shown] = documents("leases")
    assert shape(node.json("leases")) == shape(shown)
    node.sysctl("net.ipv4.conf.all.rp_filter", 2)
    [shown] = documents("doctor")
    assert node.json("doctor", "--check", "rp-filter") == shown
    node.end(pod)
    [shown] = documents("gc")
    assert shape(node.json("gc")) == shape(shown)


def test_every_option_is_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["leases"], ["doctor"], ["audit"], ["gc"], ["conf", "render"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        missing = {each for each in re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out) if each not in TEXT}
        assert missing <= {"--help"}, words
