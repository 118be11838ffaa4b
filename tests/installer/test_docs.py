"""docs/nodes.md says what podwire-node does."""

import argparse
import inspect
import re
from pathlib import Path

import pytest

from cni_plugin.install import __main__ as command
from cni_plugin.install import preflight, undo, uninstall
from cni_plugin.install.install import Install
from cni_plugin.install.places import AGENT_UNIT, COMMANDS, SHIM_UNIT, WATCHDOG_TIMER, WATCHDOG_UNIT, Places

TEXT = (Path(__file__).parents[2] / "docs" / "nodes.md").read_text()


def section(title: str) -> str:
    """The text below a heading."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """The first two cells of a table's rows, backquotes left away."""
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    return {first.replace("`", ""): second for first, second in found}


def verbs() -> set[str]:
    parser = command._parser(Places())
    [action] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return set(action.choices)


def test_the_table_of_verbs_is_the_parser() -> None:
    assert set(rows(section("podwire-node"))) - {"verb", "exit code", "0", "1", "2", "3"} == verbs()


@pytest.mark.parametrize("verb", ["preflight", "install", "uninstall", "status"])
def test_no_option_is_named_that_there_is_not(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([verb, "--help"])
    assert f"`{verb}`" in TEXT
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    for_verb = {"uninstall": {"--wait", "--delete-pods", "--dry-run"}, "install": {"--no-preflight", "--wait-lifeline"}}
    assert for_verb.get(verb, {"--json"}) <= known
    assert all(option in TEXT for option in for_verb.get(verb, {"--json"}))


def test_exit_code_3_is_the_unfinished_uninstall() -> None:
    assert uninstall.UNFINISHED == 3
    assert rows(section("podwire-node"))["3"].startswith("unfinished")


def test_the_table_of_files_is_what_places_knows() -> None:
    places = Places()
    named = set()
    for cell in rows(section("Files on a node")):
        first, *others = cell.split(", ")
        named |= {Path(first), *(Path(first).with_name(other) for other in others)}
    known = {getattr(places, name) for name, value in vars(Places).items() if isinstance(value, property)}
    known |= {places.command(name) for name in COMMANDS}
    known |= {places.unit(name) for name in (AGENT_UNIT, SHIM_UNIT, WATCHDOG_UNIT, WATCHDOG_TIMER)}
    known.add(places.version("IDENTITY"))
    folders_of_others = {places.at(f"/{each}") for each in ("opt/cni/bin", "etc/cni/net.d", "usr/local/bin")}
    left_out = {
        *folders_of_others,
        places.home,
        places.versions,
        places.etc,
        places.units,
        places.lib,
        places.shim_socket,
        places.runtime_socket,
        places.sysctls,
        *(each for each in known if "kubelet" in str(each) or each == places.crictl_config),
    }
    assert named - {Path("path")} == known - left_out


def test_the_table_of_checks_is_the_preflights() -> None:
    assert set(rows(section("What the preflight looks at"))) - {"check"} == {"options", *preflight._CHECKS}
    for name in preflight._DOCTORS:
        assert f"`{name}`" in section("What the preflight looks at")


def test_the_table_of_steps_has_every_one_in_its_order() -> None:
    titles = re.findall(r'^            \(f?"([^"{]+?)(?: \{.*)?", self', inspect.getsource(Install.run), re.MULTILINE)
    assert len(titles) > 5
    assert [each for each in rows(section("What an installation does")) if each != "step"] == titles


def test_the_name_of_a_kept_file_is_right() -> None:
    assert f"NAME{undo.KEPT}" in TEXT
