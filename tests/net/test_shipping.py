"""podwire-net is a command of its own: nothing of it is on the way of a pod."""

import re
import tomllib
from pathlib import Path

import pytest

from cni_plugin import packaging

REPOSITORY = Path(__file__).parents[2]
HOT = sorted(path.name for path in (REPOSITORY / "cni_plugin").glob("*.py"))


@pytest.mark.parametrize("name", HOT)
def test_the_executables_modules_import_nothing_of_it(name: str) -> None:
    text = (REPOSITORY / "cni_plugin" / name).read_text()
    assert not re.search(r"\bcni_plugin\.net\b|from cni_plugin import .*\bnet\b|\bimport rich\b|\bfrom rich\b", text)


def test_the_executable_is_built_without_it(tmp_path: Path) -> None:
    packaging.build(tmp_path)
    shipped = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert "podwire.lib/cni_plugin/verbs.py" in shipped
    assert not any("/net/" in path or path.endswith("/net") for path in shipped)


def test_the_package_and_its_template_are_installed() -> None:
    # What pyproject.toml does not name, pip leaves out.
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "cni_plugin.net" in setuptools["packages"]
    assert "*.conflist" in setuptools["package-data"]["cni_plugin.net"]
