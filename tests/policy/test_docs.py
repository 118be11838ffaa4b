"""What the documents say is what the code does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import claims, config, nftables, requests, spec
from cni_plugin.call import Call

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = (REPOSITORY / "docs" / "configuration.md").read_text()
ROWS = [line for line in CONFIGURATION.splitlines() if line.startswith("|")]


def section(heading: str) -> list[list[str]]:
    """The cells of the table that begins with this heading, without the two lines of the head."""
    lines = CONFIGURATION[CONFIGURATION.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


KEYS = {cells[0].strip("` "): cells for cells in section("key")}


def quoted(cell: str) -> Any:
    """The JSON between the first backticks of a cell."""
    return json.loads(cell.split("`")[1])


def configuration(path: str, value: Any) -> dict[str, Any]:
    """A right configuration in which the key of a documented path has this value."""
    document: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "n",
        "type": "podwire",
        "ipam": {"ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    *steps, last = path.replace("[]", ".0").split(".")
    place: Any = document
    for step in steps:
        place = place[int(step) if step == "0" else step]
    place[last] = value
    return document


def judged(document: dict[str, Any]) -> config.Network:
    environment = {"CNI_COMMAND": "STATUS", "CNI_PATH": "/opt/cni/bin"}
    return config.network(document, Call(environment))


def test_every_key_of_the_plugin_is_documented_and_no_other() -> None:
    known = {*config._OWN_KEYS, "type", "capabilities"}
    known |= {f"ipam.{key}" for key in config._IPAM_KEYS if key != "type"}
    known |= {f"ipam.ranges[][].{key}" for key in config._RANGE_KEYS}
    known |= {f"ipam.routes[].{key}" for key in config._ROUTE_KEYS}
    assert set(KEYS) == known


@pytest.mark.parametrize("path", KEYS)
def test_the_example_of_a_key_is_taken_and_the_other_value_refused(path: str) -> None:
    judged(configuration(path, quoted(KEYS[path][4])))
    with pytest.raises(spec.CniError) as refused:
        judged(configuration(path, quoted(KEYS[path][5])))
    assert refused.value.code == spec.INVALID_CONFIGURATION


@pytest.mark.parametrize("path", [path for path in KEYS if "`" in KEYS[path][2]])
def test_the_default_of_a_key_is_what_the_code_takes(path: str) -> None:
    stated = judged(configuration(path, quoted(KEYS[path][2])))
    assert told(judged(configuration(path, None))) == told(stated)


def told(network: config.Network) -> dict[str, Any]:
    """What a configuration came to, comparable."""
    return {name: str(getattr(network, name)) for name in network.__slots__ if name != "range_sets"} | {
        "ranges": [(str(each), each.excluded) for each in network.range_sets]
    }


def test_every_capability_and_annotation_is_documented() -> None:
    assert {cells[0].strip("` ") for cells in section("capability")} == set(config.CAPABILITIES)
    known = {value for name, value in vars(requests).items() if str(value).startswith("podwire.dev/")}
    assert {cells[0].strip("` ") for cells in section("annotation")} == known


def test_every_folder_of_the_state_is_documented() -> None:
    named = set(re.findall(r"`(\w+)/", " ".join(cells[0] for cells in section("in the state folder"))))
    assert named == set(claims.FOLDERS)


def error_codes() -> dict[str, int]:
    """The codes that the plugin can answer with, by the names of `spec`."""
    return {name: value for name, value in vars(spec).items() if name.isupper() and isinstance(value, int)}


@pytest.mark.parametrize(("name", "code"), sorted(error_codes().items()), ids=sorted(error_codes()))
def test_every_error_code_is_used_and_documented(name: str, code: int) -> None:
    assert any(row.startswith(f"| {code} |") for row in ROWS)
    sources = [path.read_text() for path in (REPOSITORY / "cni_plugin").glob("*.py") if path.name != "spec.py"]
    assert any(re.search(rf"\b{name}\b", source) for source in sources)


def test_the_link_groups_and_the_table_are_documented() -> None:
    assert str(nftables.GROUP_MASQUERADE) in CONFIGURATION
    assert str(nftables.GROUP_PLAIN) in CONFIGURATION
    assert f"`inet {nftables.TABLE}`" in CONFIGURATION


def test_links_between_documents_lead_somewhere() -> None:
    for document in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
