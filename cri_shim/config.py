"""Configuration: a TOML file and the command line become one frozen value, or every fault at once.

conf/shim.toml shows every key with its default. A key this table does not hold is an error: a misspelt key
that is ignored is a setting that silently does not hold.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cri_shim import endpoint
from cri_shim.endpoint import Endpoint
from cri_shim.errors import ConfigError

LISTEN = Endpoint("/run/podwire/cri.sock")
UPSTREAM = Endpoint("/run/containerd/containerd.sock")


@dataclass(frozen=True, slots=True)
class Config:
    """All the shim can be told. Durations are seconds. `observe_log` is "stderr" or an absolute path."""

    listen: Endpoint = LISTEN
    upstream: Endpoint = UPSTREAM
    drain_seconds: float = 25.0
    reconnect_initial_seconds: float = 0.1
    reconnect_max_seconds: float = 0.5
    observe_enabled: bool = True
    observe_log: str = "stderr"
    observe_quiet_methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its place in the file, the attribute of Config it fills, and what makes a value of it."""

    key: str
    attribute: str
    parse: Callable[[Any], object]


def _endpoint(value: Any) -> Endpoint:
    return endpoint.parse(_text(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {_type_name(value)}")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _seconds(least: float, most: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number of seconds, not {_type_name(value)}")
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"must be from {least:g} to {most:g} seconds, not {value:g}")
        return float(value)

    return parse


def _destination(value: Any) -> str:
    text = _text(value)
    if text != "stderr" and not text.startswith("/"):
        raise ValueError(f'must be "stderr" or the absolute path of a file, not {text!r}')
    return text


def _method_names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValueError('must be a list of method names such as ["ListContainers"]')
    return tuple(value)


SETTINGS = (
    Setting("listen", "listen", _endpoint),
    Setting("upstream", "upstream", _endpoint),
    Setting("drain_seconds", "drain_seconds", _seconds(0, 3600)),
    Setting("reconnect.initial_seconds", "reconnect_initial_seconds", _seconds(0.1, 60)),
    Setting("reconnect.max_seconds", "reconnect_max_seconds", _seconds(0.1, 60)),
    Setting("observe.enabled", "observe_enabled", _boolean),
    Setting("observe.log", "observe_log", _destination),
    Setting("observe.quiet_methods", "observe_quiet_methods", _method_names),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}
TABLES = {setting.key.partition(".")[0] for setting in SETTINGS if "." in setting.key}


def load(file: str | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Configuration from the TOML `file` (None: defaults), `overrides` (key -> raw value) winning.

    Raises ConfigError with every fault found.
    """
    values: dict[str, object] = {}
    faults: list[str] = []
    if file is not None:
        try:
            _take(_flatten(_read(file)), f"{file}: ", values, faults)
        except ConfigError as unreadable:
            faults += unreadable.faults
    _take((overrides or {}).items(), "--", values, faults)
    if not faults:
        config = Config(**values)  # type: ignore[arg-type]  # each row's parser makes its attribute's type
        faults += _contradictions(config)
    if faults:
        raise ConfigError(faults)
    return config


def _take(items: Iterable[tuple[str, Any]], prefix: str, values: dict[str, object], faults: list[str]) -> None:
    for key, raw in items:
        setting = BY_KEY.get(key)
        if setting is None:
            faults.append(f"{prefix}{_unknown(key, raw)}")
            continue
        try:
            values[setting.attribute] = setting.parse(raw)
        except ValueError as fault:
            faults.append(f"{prefix}{key}: {fault}")


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError([f"{file}: {error.strerror}; give --config an existing TOML file"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: not valid TOML: {error}"]) from error


def _flatten(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key in TABLES and isinstance(value, dict):
            for inner, inner_value in value.items():
                yield f"{key}.{inner}", inner_value
        else:
            yield key, value


def _unknown(key: str, value: Any) -> str:
    if key in TABLES:
        return f"{key}: must be a table, written [{key}], not {_type_name(value)}"
    # The bare name is compared as well: a key outside of its table is a common slip.
    candidates = {name: name for name in BY_KEY} | {name.rpartition(".")[2]: name for name in BY_KEY}
    names = TABLES if isinstance(value, dict) else candidates
    near = difflib.get_close_matches(key, names, n=1)
    if not near:
        return f"unknown key {key!r}; known are {', '.join(BY_KEY)}"
    return f"unknown key {key!r}; did you mean {candidates.get(near[0], near[0])!r}?"


def _contradictions(config: Config) -> Iterator[str]:
    if endpoint.same_place(config.listen, config.upstream):
        yield f"listen and upstream are both {config.listen}; the shim cannot be its own runtime"
    if config.reconnect_initial_seconds > config.reconnect_max_seconds:
        yield (
            f"reconnect.initial_seconds ({config.reconnect_initial_seconds:g}) is more than "
            f"reconnect.max_seconds ({config.reconnect_max_seconds:g})"
        )
    if config.observe_log != "stderr" and not os.path.isdir(os.path.dirname(config.observe_log)):
        yield f"observe.log: folder {os.path.dirname(config.observe_log)} does not exist; create it"


def _type_name(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"
