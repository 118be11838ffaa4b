"""Configuration: one value or every fault, and conf/ tells the truth about the defaults."""

from __future__ import annotations

import dataclasses
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cri_shim import config, rules
from cri_shim.endpoint import PATH_LIMIT, Endpoint
from cri_shim.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"


def faults_of(tmp_path: Path, text: str, overrides: dict[str, str] | None = None) -> list[str]:
    file = tmp_path / "shim.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(str(file), overrides)
    return [fault.removeprefix(f"{file}: ") for fault in caught.value.faults]


def capability(name: str) -> Any:
    """The module of a built-in capability."""
    return importlib.import_module(config.BUILT_IN[name].partition(":")[0])


def test_the_shipped_file_equals_the_coded_defaults() -> None:
    loaded = config.load(str(CONF / "shim.toml"))
    assert dataclasses.replace(loaded, tables={}) == config.Config()
    assert loaded.tables == {name: capability(name).DEFAULTS for name in loaded.tables}


def test_the_shipped_file_has_a_table_for_every_capability_with_keys() -> None:
    with_keys = {name for name in config.BUILT_IN if getattr(capability(name), "DEFAULTS", None)}
    assert set(config.load(str(CONF / "shim.toml")).tables) == with_keys


def test_the_rule_in_the_shipped_file_is_right_once_it_is_uncommented() -> None:
    text = (CONF / "shim.toml").read_text()
    example = re.sub(r"^# ?", "", text[text.index("# [[rule]]") :], flags=re.MULTILINE)
    [rule] = rules.parse(tomllib.loads(example)["rule"])
    assert (rule.name, rule.fail) == ("no-debug-in-shop", "closed")
    assert set(tomllib.loads(example)["rule"][0]) == {row.key for row in rules.KEYS}


def test_the_shipped_file_shows_every_key_with_a_comment() -> None:
    text = (CONF / "shim.toml").read_text()
    document = tomllib.loads(text)
    keys = [setting.key for setting in config.SETTINGS if setting.key != "rule"]
    for key in [
        *keys,
        *(f"{name}.{inner}" for name in document if name in config.BUILT_IN for inner in document[name]),
    ]:
        table, _, name = key.rpartition(".")
        assert name in (document[table] if table else document), key
        assert re.search(rf"^#.*\n{re.escape(name)} = ", text, re.MULTILINE), f"{key} has no comment"


def test_every_attribute_has_exactly_one_key() -> None:
    attributes = [field.name for field in dataclasses.fields(config.Config)]
    assert sorted(setting.attribute for setting in config.SETTINGS) == sorted({*attributes} - {"tables"})


def test_the_value_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().drain_seconds = 1  # type: ignore[misc]


def test_without_a_file_the_defaults_hold() -> None:
    assert config.load(None) == config.Config()


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "shim.toml"
    file.write_text('listen = "unix:///a"\nupstream = "unix:///b"\ndrain_seconds = 3\n')
    loaded = config.load(str(file), {"listen": "unix:///c"})
    assert (loaded.listen, loaded.upstream, loaded.drain_seconds) == (Endpoint("/c"), Endpoint("/b"), 3.0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("lisen = 1", "unknown key 'lisen'; did you mean 'listen'?", id="misspelt"),
        pytest.param("max_seconds = 1", "did you mean 'reconnect.max_seconds'?", id="outside-its-table"),
        pytest.param("[observe]\nenable = true", "'observe.enable'; did you mean 'observe.enabled'?", id="inner"),
        pytest.param("[observ]\nx = 1", "unknown key 'observ'; did you mean 'observe'?", id="misspelt-table"),
        pytest.param("zzz = 1", "unknown key 'zzz'; known are listen, upstream", id="nothing-near"),
        pytest.param("observe = 1", "observe: must be a table, written [observe], not a number (1)", id="no-table"),
        pytest.param("listen = 5", "listen: must be a string, not a number (5)", id="no-string"),
        pytest.param("[listen]\na = 1", "listen: must be a string, not a table", id="table"),
        pytest.param('drain_seconds = "5"', "must be a number of seconds, not a string ('5')", id="no-number"),
        pytest.param("drain_seconds = true", "must be a number of seconds, not a boolean", id="boolean"),
        pytest.param("drain_seconds = -1", "must be from 0 to 3600 seconds, not -1", id="negative"),
        pytest.param("drain_seconds = nan", "must be from 0 to 3600 seconds, not nan", id="nan"),
        pytest.param("drain_second = 1", "did you mean 'drain_seconds'?", id="name-in-two-tables"),
        pytest.param("[handover]\nmemory_mb = 63", "must be from 64 to 1048576, not 63", id="little-memory"),
        pytest.param("[handover]\nmemory_mb = 1.5", "must be a whole number", id="fraction"),
        pytest.param("[handover]\nconnection_seconds = 0", "must be from 0.1 to 3600 seconds", id="no-age"),
        pytest.param("[observe]\nenabled = 1", "observe.enabled: must be true or false, not 1", id="no-boolean"),
        pytest.param('[observe]\nlog = "x"', "absolute path of a file, not 'x'", id="relative-log"),
        pytest.param('[observe]\nlog = "/no/where/x"', "folder /no/where does not exist", id="log-folder"),
        pytest.param("[observe]\nquiet_methods = [1]", "must be a list of method names", id="no-names"),
        pytest.param("[reconnect]\ninitial_seconds = 9", "is more than reconnect.max_seconds (0.5)", id="crossed"),
        pytest.param('upstream = "run/c.sock"', "is no unix socket endpoint; write unix:///", id="no-scheme"),
        pytest.param('upstream = "tcp://1.2.3.4:5"', "is no unix socket endpoint; write unix:///", id="tcp"),
        pytest.param('listen = "unix://run/c.sock"', "holds a relative path", id="relative"),
        pytest.param('listen = "unix:///run/c/"', "names a folder", id="folder"),
        pytest.param('listen = "unix:///a\\u0000b"', "holds a NUL byte", id="nul"),
        pytest.param(f'listen = "unix:///{"x" * 107}"', "has 108 bytes and a unix socket's may have 107", id="long"),
        pytest.param(
            'listen = "unix:///tmp/../tmp/a"\nupstream = "unix:///tmp/a"', "cannot be its own runtime", id="itself"
        ),
    ],
)
def test_a_fault_says_what_and_what_instead(tmp_path: Path, text: str, fault: str) -> None:
    found = faults_of(tmp_path, text)
    assert len(found) == 1, found
    assert fault in found[0]


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    found = faults_of(
        tmp_path, 'lisen = "x"\ndrain_seconds = -1\n[observe]\nenabled = "yes"', {"upstream": "relative.sock"}
    )
    assert [fault.split(":")[0].split(" ")[0] for fault in found] == [
        "unknown",
        "drain_seconds",
        "observe.enabled",
        "--upstream",
    ]


def test_a_path_of_107_bytes_is_still_good() -> None:
    path = "/" + "é" * 53
    assert len(path.encode()) == PATH_LIMIT
    assert config.load(None, {"listen": f"unix://{path}"}).listen.path == path


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(b"listen = ", "not valid TOML", id="syntax"),
        pytest.param(b"\xff\xfe", "not valid TOML", id="encoding"),
        pytest.param(None, "No such file or directory; give --config an existing TOML file", id="absent"),
    ],
)
def test_an_unreadable_file_is_one_fault(tmp_path: Path, content: bytes | None, fault: str) -> None:
    file = tmp_path / "shim.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=fault):
        config.load(str(file))
