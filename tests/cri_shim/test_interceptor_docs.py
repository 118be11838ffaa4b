"""The documents of the capabilities that carry out rules: examples load, tables hold every key and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cri_shim import rules, schema
from cri_shim.capabilities import Setup
from cri_shim.interceptors import images, mutate, policy
from cri_shim.interceptors.ruled import Ruled

DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENTED: dict[str, tuple[type[Ruled], Any]] = {
    "images": (images.Images, images.KEYS),
    "mutate": (mutate.Mutate, mutate.KEYS),
    "policy": (policy.Policy, policy.KEYS),
}


def document(name: str) -> str:
    return (DOCS / f"interceptor-{name}.md").read_text()


def examples(name: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", document(name), re.DOTALL)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_example_is_taken(name: str) -> None:
    kind, _ = DOCUMENTED[name]
    assert examples(name)
    for text in examples(name):
        parsed = tomllib.loads(text)
        settings = {key: value for key, value in parsed.get(name, {}).items() if key != "credentials"}
        own = tuple(one for one in rules.parse(parsed.get("rule", [])) if one.interceptor == name)
        made = kind(Setup(name, settings, own))
        assert "rule" not in parsed or any(made.wants(path) for path in schema.methods())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_key_is_in_the_table_and_in_an_example(name: str) -> None:
    _, rows = DOCUMENTED[name]
    table = document(name)[document(name).index("| key of `do` |") :].split("\n\n")[0].splitlines()[2:]
    keys = {line.split("|")[1].strip("` ") for line in table}
    assert keys == {row.key for row in rows}
    written = {key for text in examples(name) for one in tomllib.loads(text).get("rule", []) for key in one["do"]}
    assert keys - written <= {"allowed_host_paths"}, "keys that no example shows"
