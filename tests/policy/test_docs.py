"""What the documents say is what the code does."""

import re
from pathlib import Path

import pytest

from cni_plugin import config, nftables, spec

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = (REPOSITORY / "docs" / "configuration.md").read_text()
ROWS = [line for line in CONFIGURATION.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("key", sorted({*config._OWN_KEYS, *config._IPAM_KEYS, *config._RANGE_KEYS} - {"type"}))
def test_every_key_of_the_plugin_is_documented(key: str) -> None:
    assert any(re.search(rf"`[^`]*\b{key}`", row.split("|")[1]) for row in ROWS)


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
