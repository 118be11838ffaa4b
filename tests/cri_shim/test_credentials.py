"""Credentials of registries: only from a file that is its owner's alone, and never shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from cri_shim import credentials
from cri_shim.references import DOCKER

SECRET = "hunter2"
AUTH = base64.b64encode(f"user:{SECRET}:with-colon".encode()).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "registries.json"
    made.touch(0o600)
    return made


def written(file: Path, auths: object) -> credentials.Auths:
    file.write_text(json.dumps({"auths": auths}))
    return credentials.load(str(file))


def test_each_way_of_writing_an_entry_is_read(file: Path) -> None:
    auths = written(
        file,
        {
            "one.example": {"username": "u", "password": "p"},
            "two.example:5000": {"auth": AUTH},
            "https://three.example/": {"identitytoken": "t"},
            "four.example": {"registrytoken": "r", "email": "x@y.example"},
        },
    )
    assert credentials.for_image(auths, "one.example/a:1") == {
        "username": "u",
        "password": "p",
        "server_address": "https://one.example",
    }
    two = credentials.for_image(auths, "two.example:5000/a")
    assert two is not None
    assert (two["username"], two["password"]) == ("user", f"{SECRET}:with-colon")
    three, four = (credentials.for_image(auths, f"{name}.example/a") for name in ("three", "four"))
    assert three is not None
    assert three["identity_token"] == "t"
    assert four == {"registry_token": "r", "server_address": "https://four.example"}
    assert credentials.for_image(auths, "five.example/a") is None
    assert credentials.for_image(auths, "one.example.evil/a") is None


def test_the_longest_prefix_wins(file: Path) -> None:
    auths = written(file, {"r.example": {"username": "all"}, "r.example/team": {"username": "team"}})
    names = {name: credentials.for_image(auths, name) for name in ("r.example/team/a", "r.example/teams/a")}
    assert [found["username"] for found in names.values() if found] == ["team", "all"]


def test_dockers_own_entry_is_for_short_names(file: Path) -> None:
    auths = written(file, {f"https://index.{DOCKER}/v1/": {"auth": AUTH}})
    found = credentials.for_image(auths, "nginx")
    assert found is not None
    assert found["username"] == "user"
    assert "server_address" not in found


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(file: Path, mode: int) -> None:
    written(file, {})
    file.chmod(mode)
    with pytest.raises(ValueError, match=rf"has mode {mode:04o}, owner \d+; others can read it: chmod 600 it"):
        credentials.load(str(file))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SECRET, id="no-json"),
        pytest.param(f'{{"auths": ["{SECRET}', id="cut-off"),
        pytest.param(f'{{"auths": {{"r": {{"auth": "{SECRET}!"}}}}}}', id="no-base64"),
        pytest.param(f'{{"auth": "{SECRET}"}}', id="no-auths"),
    ],
)
def test_an_error_never_shows_what_the_file_holds(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match="does not hold auths in the format of Docker") as caught:
        credentials.load(str(file))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing: No such file"):
        credentials.load(str(tmp_path / "nothing"))
