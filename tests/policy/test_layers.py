"""Who may import whom, how long a module may be, and what no file may name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policy.test_lint import REPOSITORY, tracked

PYTHON_FILES = tracked("*.py")
LONGEST = 400

# top-level folder -> packages its modules never import, and why.
FORBIDDEN = {
    "cni_plugin": {
        "cri_shim": "the plugin works without the shim",
        "tests": "the product does not need its tests",
        "bench": "the product does not need its benchmarks",
        "grpc": "it costs more to import than a whole ADD takes",
        "google": "it costs more to import than a whole ADD takes",
    },
    "cri_shim": {
        "cni_plugin": "the shim works with any plugin",
        "tests": "the product does not need its tests",
        "bench": "the product does not need its benchmarks",
    },
}
# pyroute2 is the independent witness of what our own codec wrote, and the library of the agent and of podwire-net.
MAY_IMPORT_PYROUTE2 = re.compile(r"tests/|bench/|cni_plugin/(agent|install|net)/")

# Built from parts, so that this file does not name them itself.
PACKAGE_REGISTRIES = re.compile(
    "|".join(
        re.escape(host)
        for host in (
            "py" + "pi.org",
            "files.python" + "hosted.org",
            "registry.npm" + "js.org",
            "deb.deb" + "ian.org",
            "archive.ubu" + "ntu.com",
            "registry.k8s" + ".io/",
            "docker" + ".io/",
        )
    )
)
PERSONAL_PATH = re.compile(r"(?<![\w./-])/(?:" + "|".join(("wo" + "rk", "home/" + r"\w+", "Us" + "ers")) + r")/")


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, also of those inside functions."""
    for node in ast.walk(ast.parse((REPOSITORY / name).read_text(), name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module.partition(".")[0]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    faults = [
        f"{name}:{line} imports {imported}: {FORBIDDEN[package][imported]}"
        for name in PYTHON_FILES
        if name.startswith(f"{package}/")
        for line, imported in imports(name)
        if imported in FORBIDDEN[package]
    ]
    assert not faults, "\n".join(faults)


def test_pyroute2_is_imported_by_tests_and_the_agent_only() -> None:
    faults = [
        f"{name}:{line}"
        for name in PYTHON_FILES
        if not MAY_IMPORT_PYROUTE2.match(name)
        for line, imported in imports(name)
        if imported == "pyroute2"
    ]
    assert not faults, "\n".join(faults)


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {name: len((REPOSITORY / name).read_text().splitlines()) for name in PYTHON_FILES}
    faults = [f"{name}: {length} lines, {LONGEST} allowed" for name, length in lengths.items() if length > LONGEST]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc"])
def test_no_module_is_named_for_nothing(name: str) -> None:
    assert [file for file in PYTHON_FILES if Path(file).stem == name] == []


@pytest.mark.parametrize(
    ("what", "pattern"), [("a developer's own path", PERSONAL_PATH), ("a package registry", PACKAGE_REGISTRIES)]
)
def test_no_file_names(what: str, pattern: re.Pattern[str]) -> None:
    faults = []
    for name in tracked():
        try:
            text = (REPOSITORY / name).read_text()
        except UnicodeDecodeError:
            continue
        faults += [
            f"{name}:{number} names {what}: {found[0]}"
            for number, line in enumerate(text.splitlines(), 1)
            if (found := pattern.search(line))
        ]
    assert not faults, "\n".join(faults)
