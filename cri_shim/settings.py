"""What a key of the configuration may hold: rows of (key, attribute, parser), and the parsers they share.

A parser takes what TOML gave and returns a value, or raises ValueError with the rest of a sentence that begins
with the key ("must be a string, not a number (5)"), or ConfigError with several.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cri_shim import endpoint
from cri_shim.endpoint import Endpoint
from cri_shim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its place in the file, the attribute it fills, and what makes a value of it."""

    key: str
    attribute: str
    parse: Callable[[Any], object]


def take(rows: Iterable[Setting], table: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Attribute -> value of every key the table holds; ConfigError with all faults, keys under `name`."""
    prefix = f"{name}." if name else ""
    by_key = {row.key: row for row in rows}
    values: dict[str, Any] = {}
    faults: list[str] = []
    for key, raw in table.items():
        row = by_key.get(key)
        if row is None:
            near = difflib.get_close_matches(key, by_key, n=1)
            known = ", ".join(f"{prefix}{one}" for one in by_key) or "none"
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known are {known}"
            faults.append(f"unknown key '{prefix}{key}'; {hint}")
            continue
        try:
            values[row.attribute] = row.parse(raw)
        except ValueError as fault:
            faults.append(f"{prefix}{key}: {fault}")
        except ConfigError as several:
            faults += [f"{prefix}{key}: {fault}" for fault in several.faults]
    if faults:
        raise ConfigError(faults)
    return values


def endpoint_of(value: Any) -> Endpoint:
    """A unix socket."""
    return endpoint.parse(text(value))


def text(value: Any) -> str:
    """Any string."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {type_name(value)}")
    return value


def boolean(value: Any) -> bool:
    """true or false, and nothing that only resembles them."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def seconds(least: float, most: float) -> Callable[[Any], float]:
    """A finite number of seconds within both bounds."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number of seconds, not {type_name(value)}")
        if not math.isfinite(value) or not least <= value <= most:
            raise ValueError(f"must be from {least:g} to {most:g} seconds, not {value:g}")
        return float(value)

    return parse


def whole(least: int, most: int) -> Callable[[Any], int]:
    """A whole number within both bounds."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {type_name(value)}")
        if not least <= value <= most:
            raise ValueError(f"must be from {least} to {most}, not {value}")
        return value

    return parse


def choice(*words: str) -> Callable[[Any], str]:
    """One of these words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be {' or '.join(map(repr, words))}, not {value!r}")
        return str(value)

    return parse


def destination(value: Any) -> str:
    """ "stderr" or an absolute path."""
    path = text(value)
    if path != "stderr" and not path.startswith("/"):
        raise ValueError(f'must be "stderr" or the absolute path of a file, not {path!r}')
    return path


def strings(example: str) -> Callable[[Any], tuple[str, ...]]:
    """A list of strings that are not empty, such as `example`."""

    def parse(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise ValueError(f"must be a list of {example}")
        return tuple(value)

    return parse


def table(value: Any) -> Mapping[str, Any]:
    """A TOML table as it is."""
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {type_name(value)}")
    return value


def type_name(value: Any) -> str:
    """What a fault calls a value."""
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"


def repeated(names: Sequence[str]) -> list[str]:
    """Names that stand there more than once, in order."""
    return sorted({name for name in names if names.count(name) > 1})
