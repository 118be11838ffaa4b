"""What the documents say of `./install.sh node` and `kind` is what `--help` says."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.installer.hostlab import PARTS, REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "docs" / "kind.md", REPOSITORY / "docs" / "operations.md"]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# A command in a document is where one of these begins, up to the end of the code.
INSTALLER = re.compile(r"install\.sh (node|kind|build)([^`\n#;|]*)")


@cache
def options(command: str) -> frozenset[str]:
    """What `./install.sh COMMAND --help` lists; `build` has the general help."""
    words = ["--help"] if command == "build" else [command, "--help"]
    done = subprocess.run([REPOSITORY / "install.sh", *words], capture_output=True, text=True, timeout=20, check=True)
    return frozenset(OPTION.findall(done.stdout))


def sections(path: Path) -> str:
    """The document; of the README, what is about nodes."""
    text = path.read_text()
    if path.name != "README.md":
        return text
    return text[text.index("## Install on kind, or on a node") : text.index("## Symptoms")]


@pytest.mark.parametrize("path", [*DOCUMENTS, REPOSITORY / "docs" / "nodes.md"], ids=lambda path: path.name)
def test_every_command_of_a_document_has_options_that_its_help_lists(path: Path) -> None:
    commands = INSTALLER.findall(path.read_text())
    assert commands
    unknown = {(command, word) for command, rest in commands for word in OPTION.findall(rest)}
    assert {(command, word) for command, word in unknown if word not in options(command)} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_that_stands_alone_is_in_the_help(path: Path) -> None:
    named = set(re.findall(r"`(--[a-z][a-z-]+)[^`]*`", sections(path)))
    assert named
    assert named - options("kind") - options("node") - options("build") == set()


def test_kind_md_explains_every_option_that_only_kind_has() -> None:
    help_of_kind = (PARTS / "words.sh").read_text().partition("\nkind\n")[2].partition("\nuninstall\n")[0]
    of_kind = set(re.findall(r"^  (--[a-z-]+)", help_of_kind, re.MULTILINE))
    assert of_kind == {"--name", "--provider", "--nodes", "--replace-kindnet"}
    for option in of_kind:
        assert f"| `{option}" in (REPOSITORY / "docs" / "kind.md").read_text()


def test_help_lists_every_option_that_is_understood_and_no_other() -> None:
    words = (PARTS / "words.sh").read_text()
    cases = words[words.index("        case $1 in\n            --status") : words.index("unknown argument")]
    arms = re.findall(r"^ +((?:--[a-z-]+[ |\\\n]*|-h|status|uninstall|rollback| \| )+)\)", cases, re.MULTILINE)
    understood = {word for arm in arms for word in OPTION.findall(arm)}
    assert understood == set(options("kind"))


def test_no_placeholder_is_left() -> None:
    assert [path.name for path in DOCUMENTS if re.search(r"@[A-Z]+@", path.read_text())] == []
