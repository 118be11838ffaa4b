"""docs/payload.md against a payload that was built: by names, as versions move."""

import re

from cni_plugin.payload import build as builder
from tests.payload.built import REPOSITORY, Payload

TEXT = (REPOSITORY / "docs/payload.md").read_text()


def test_the_table_has_every_package_and_no_other(payload: Payload) -> None:
    rows = re.findall(r"^\| ([\w.+-]+) \| [^|]+ \| (?:Debian 12|wheel|this repository) \|", TEXT, re.MULTILINE)
    assert sorted(rows) == sorted(package["name"] for package in payload.manifest["packages"])


def test_the_tree_that_is_shown_is_the_one_that_is_built(payload: Payload) -> None:
    for entry in payload.tree.iterdir():
        assert re.search(rf"^      {re.escape(entry.name)}(/| )", TEXT, re.MULTILINE), entry.name
    assert f"{builder.LARGEST // 10**6} MB" in TEXT
    assert builder.PLACE in TEXT
    line = next(line for line in TEXT.splitlines() if line.startswith("      bin/podwire-agent"))
    named = {f"podwire-{name}" for name in line.strip().removeprefix("bin/podwire-").replace("-", "").split()}
    assert named == set(builder.COMMANDS)


def test_the_size_that_is_told_is_about_right(payload: Payload) -> None:
    told = re.search(r"tar\.gz` \((\d+) MB\)", TEXT)
    assert told
    assert abs(int(told[1]) - payload.archive.stat().st_size / 1e6) < 5
