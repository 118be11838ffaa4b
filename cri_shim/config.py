"""Configuration: a TOML file and the command line become one frozen value, or every fault at once.

conf/shim.toml shows every key with its default. A key this table does not hold is an error: a misspelt key
that is ignored is a setting that silently does not hold.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cri_shim import endpoint, rules
from cri_shim.endpoint import Endpoint
from cri_shim.errors import ConfigError
from cri_shim.rules import Rule
from cri_shim.settings import (
    Setting,
    boolean,
    choice,
    destination,
    endpoint_of,
    repeated,
    seconds,
    strings,
    text,
    type_name,
    whole,
)

LISTEN = Endpoint("/run/podwire/cri.sock")
UPSTREAM = Endpoint("/run/containerd/containerd.sock")


@dataclass(frozen=True, slots=True)
class Config:
    """All the shim can be told. Durations are seconds. `observe_log` is "stderr" or an absolute path.

    `tables` holds what the file says in the tables of capabilities, as it stands there: each checks its own.
    """

    listen: Endpoint = LISTEN
    upstream: Endpoint = UPSTREAM
    drain_seconds: float = 25.0
    reconnect_initial_seconds: float = 0.1
    reconnect_max_seconds: float = 0.5
    handover_connection_seconds: float = 30.0
    handover_drain_seconds: float = 900.0
    handover_memory_mb: int = 256
    handover_memory_seconds: float = 60.0
    observe_enabled: bool = True
    observe_log: str = "stderr"
    observe_quiet_methods: tuple[str, ...] = ()
    native_enabled: bool = True
    network_conflist: str = ""
    network_renderer: str = ""
    network_template: str = ""
    network_cluster_cidrs: tuple[str, ...] = ()
    network_pod_cidr_file: str = "/var/lib/podwire/pod-cidr"
    network_conf_dir: str = "/etc/cni/net.d"
    network_bin_dir: str = "/opt/cni/bin"
    network_ready: str = "report"
    network_ready_seconds: float = 10.0
    network_ready_failures: int = 3
    network_gc_seconds: float = 300.0
    interceptors: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _capabilities(value: Any) -> tuple[str, ...]:
    names = strings('interceptors such as ["audit", "policy"], in the order in which requests meet them')(value)
    if twice := repeated(names):
        raise ValueError(f"lists {', '.join(twice)} twice; an interceptor has one place")
    if clash := [name for name in names if name in RESERVED]:
        raise ValueError(f"cannot list {', '.join(clash)}; observe has a table and a place of its own")
    return names


def _path(value: Any) -> str:
    if not text(value).startswith("/"):
        raise ValueError(f"must be an absolute path, not {value!r}")
    return str(value)


def _optional_path(value: Any) -> str:
    return _path(value) if value != "" else ""


def _subnets(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(subnet, str) and "/" in subnet for subnet in value):
        raise ValueError('must be a list of subnets such as ["10.244.0.0/16"]')
    return tuple(value)


def _megabytes(value: Any) -> int:
    return 0 if value == 0 and value is not False else whole(64, 1 << 20)(value)


def _interval(value: Any) -> float:
    return 0.0 if value == 0 and value is not False else seconds(1, 86400)(value)


READINESS = ("off", "report", "enforce")

SETTINGS = (
    Setting("listen", "listen", endpoint_of),
    Setting("upstream", "upstream", endpoint_of),
    Setting("drain_seconds", "drain_seconds", seconds(0, 3600)),
    Setting("reconnect.initial_seconds", "reconnect_initial_seconds", seconds(0.1, 60)),
    Setting("reconnect.max_seconds", "reconnect_max_seconds", seconds(0.1, 60)),
    Setting("handover.connection_seconds", "handover_connection_seconds", seconds(0.1, 3600)),
    Setting("handover.drain_seconds", "handover_drain_seconds", seconds(0, 86400)),
    Setting("handover.memory_mb", "handover_memory_mb", _megabytes),
    Setting("handover.memory_seconds", "handover_memory_seconds", seconds(0.1, 3600)),
    Setting("observe.enabled", "observe_enabled", boolean),
    Setting("observe.log", "observe_log", destination),
    Setting("observe.quiet_methods", "observe_quiet_methods", strings('method names such as ["ListContainers"]')),
    Setting("native.enabled", "native_enabled", boolean),
    Setting("network.conflist", "network_conflist", _optional_path),
    Setting("network.renderer", "network_renderer", _optional_path),
    Setting("network.template", "network_template", _optional_path),
    Setting("network.cluster_cidrs", "network_cluster_cidrs", _subnets),
    Setting("network.pod_cidr_file", "network_pod_cidr_file", _path),
    Setting("network.conf_dir", "network_conf_dir", _path),
    Setting("network.bin_dir", "network_bin_dir", _path),
    Setting("network.ready", "network_ready", choice(*READINESS)),
    Setting("network.ready_seconds", "network_ready_seconds", seconds(1, 3600)),
    Setting("network.ready_failures", "network_ready_failures", whole(1, 1000)),
    Setting("network.gc_seconds", "network_gc_seconds", _interval),
    Setting("interceptors", "interceptors", _capabilities),
    Setting("rule", "rules", rules.parse),
)
# The capabilities of this package, by name. Each owns the table of its name, listed in `interceptors` or not.
BUILT_IN = {
    "audit": "cri_shim.interceptors.audit:Audit",
    "images": "cri_shim.interceptors.images:Images",
    "metrics": "cri_shim.interceptors.metrics:Metrics",
    "mutate": "cri_shim.interceptors.mutate:Mutate",
    "policy": "cri_shim.interceptors.policy:Policy",
}
RESERVED = frozenset(("observe", "reconnect", "identify"))
BY_KEY = {setting.key: setting for setting in SETTINGS}
TABLES = {setting.key.partition(".")[0] for setting in SETTINGS if "." in setting.key}


def load(file: str | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Configuration from the TOML `file` (None: defaults), `overrides` (key -> raw value) winning.

    Raises ConfigError with every fault found. What capabilities find in their tables and rules comes with
    `capabilities.load`.
    """
    config, faults = read(file, overrides)
    if faults:
        raise ConfigError(faults)
    return config


def read(file: str | None, overrides: Mapping[str, Any] | None = None) -> tuple[Config, list[str]]:
    """What `load` would return, with defaults in the place of what is at fault, and the faults."""
    values: dict[str, object] = {}
    faults: list[str] = []
    if file is not None:
        try:
            document = _read(file)
            values["tables"] = _capability_tables(document, f"{file}: ", faults)
            _take(_flatten(document), f"{file}: ", values, faults)
        except ConfigError as unreadable:
            faults += unreadable.faults
    _take((overrides or {}).items(), "--", values, faults)
    config = Config(**values)  # type: ignore[arg-type]  # each row's parser makes its attribute's type
    if not faults:
        faults += _contradictions(config)
    return config, faults


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
        except ConfigError as several:
            faults += [f"{prefix}{key} {fault}" for fault in several.faults]


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError([f"{file}: {error.strerror}; give --config an existing TOML file"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: not valid TOML: {error}"]) from error


def _capability_tables(document: dict[str, Any], prefix: str, faults: list[str]) -> dict[str, Mapping[str, Any]]:
    """Takes the tables of capabilities out of the document."""
    listed = document.get("interceptors", [])
    names = set(BUILT_IN).union(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()
    tables: dict[str, Mapping[str, Any]] = {}
    for name in [one for one in document if one in names and one not in BY_KEY and one not in TABLES]:
        value = document.pop(name)
        if isinstance(value, dict):
            tables[name] = value
        else:
            faults.append(f"{prefix}{name}: must be a table, written [{name}], not {type_name(value)}")
    return tables


def _flatten(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key in TABLES and isinstance(value, dict):
            for inner, inner_value in value.items():
                yield f"{key}.{inner}", inner_value
        else:
            yield key, value


def _unknown(key: str, value: Any) -> str:
    if key in TABLES:
        return f"{key}: must be a table, written [{key}], not {type_name(value)}"
    # The bare name is compared as well: a key outside of its table is a common slip.
    candidates = {name.rpartition(".")[2]: name for name in BY_KEY} | {name: name for name in BY_KEY}
    names = TABLES | set(BUILT_IN) if isinstance(value, dict) else candidates
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
