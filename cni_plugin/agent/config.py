"""Configuration: a TOML file becomes one frozen value, or every fault at once.

conf/agent.toml shows every key with its default. A key that this table does not hold is an error: a misspelt key
that is ignored is a setting that silently does not hold.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugin.agent import settings
from cni_plugin.agent.errors import ConfigError
from cni_plugin.agent.settings import Address, Endpoint, Network, Setting, type_name

FILE = "/etc/podwire/agent.toml"
AUTO, HOST_GW, VXLAN = "auto", "host-gw", "vxlan"
KUBERNETES, STATIC, NONE = "kubernetes", "file", "none"
HTTP = Endpoint("127.0.0.1", 9474)


@dataclass(frozen=True, slots=True)
class Config:
    """All the agent can be told. Durations are seconds."""

    node_name: str = ""
    mode: str = AUTO
    pod_cidrs: tuple[Network, ...] = ()
    addresses: tuple[Address, ...] = ()
    cluster_cidrs: tuple[Network, ...] = ()
    source: str = AUTO
    state_dir: str = "/run/podwire"
    conf_dir: str = "/etc/cni/net.d"
    data_dir: str = "/var/lib/podwire"
    resync_seconds: float = 60.0
    debounce_seconds: float = 0.1
    file_path: str = "/etc/podwire/peers.toml"
    file_resolve_seconds: float = 5.0
    kubernetes_kubeconfig: str = "/etc/podwire/agent.kubeconfig"
    kubernetes_timeout_seconds: float = 10.0
    kubernetes_watch_seconds: float = 240.0
    kubernetes_retry_initial_seconds: float = 0.5
    kubernetes_retry_max_seconds: float = 30.0
    routes_protocol: int = 113
    vxlan_device: str = "pwvxlan0"
    vxlan_vni: int = 7077
    vxlan_port: int = 9473
    vxlan_underlay: str = AUTO
    vxlan_mtu: int = 0
    vxlan_checksum_offload: bool = True
    gc_seconds: float = 300.0
    http_listen: Endpoint | None = HTTP


SETTINGS = (
    Setting("node_name", "node_name", settings.node_name),
    Setting("mode", "mode", settings.choice(AUTO, HOST_GW, VXLAN)),
    Setting("pod_cidrs", "pod_cidrs", settings.networks),
    Setting("addresses", "addresses", settings.addresses),
    Setting("cluster_cidrs", "cluster_cidrs", settings.networks),
    Setting("source", "source", settings.choice(AUTO, KUBERNETES, STATIC, NONE)),
    Setting("state_dir", "state_dir", settings.path),
    Setting("conf_dir", "conf_dir", settings.path),
    Setting("data_dir", "data_dir", settings.path),
    Setting("resync_seconds", "resync_seconds", settings.seconds(1, 86400)),
    Setting("debounce_seconds", "debounce_seconds", settings.seconds(0, 10)),
    Setting("file.path", "file_path", settings.path),
    Setting("file.resolve_seconds", "file_resolve_seconds", settings.seconds(0.1, 60)),
    Setting("kubernetes.kubeconfig", "kubernetes_kubeconfig", settings.path),
    Setting("kubernetes.timeout_seconds", "kubernetes_timeout_seconds", settings.seconds(0.1, 300)),
    Setting("kubernetes.watch_seconds", "kubernetes_watch_seconds", settings.seconds(1, 3600)),
    Setting("kubernetes.retry_initial_seconds", "kubernetes_retry_initial_seconds", settings.seconds(0.05, 60)),
    Setting("kubernetes.retry_max_seconds", "kubernetes_retry_max_seconds", settings.seconds(0.05, 600)),
    Setting("routes.protocol", "routes_protocol", settings.protocol),
    Setting("vxlan.device", "vxlan_device", settings.link_name),
    Setting("vxlan.vni", "vxlan_vni", settings.whole(1, (1 << 24) - 1)),
    Setting("vxlan.port", "vxlan_port", settings.whole(1, 65535)),
    Setting("vxlan.underlay", "vxlan_underlay", settings.choice(AUTO, "ipv4", "ipv6")),
    Setting("vxlan.mtu", "vxlan_mtu", settings.whole(1280, 65535, off=True)),
    Setting("vxlan.checksum_offload", "vxlan_checksum_offload", settings.boolean),
    Setting("gc.seconds", "gc_seconds", settings.seconds(1, 86400, off=True)),
    Setting("http.listen", "http_listen", settings.endpoint),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}
TABLES = {setting.key.partition(".")[0] for setting in SETTINGS if "." in setting.key}


def load(file: str | Path | None) -> Config:
    """Configuration from a TOML file (None: defaults). Raises ConfigError with every fault found."""
    if file is None:
        return Config()
    values: dict[str, Any] = {}
    faults: list[str] = []
    for key, raw in _flatten(_read(str(file))):
        setting = BY_KEY.get(key)
        if setting is None:
            faults.append(f"{file}: {_unknown(key, raw)}")
            continue
        try:
            values[setting.attribute] = setting.parse(raw)
        except ValueError as fault:
            faults.append(f"{file}: {key}: {fault}")
    config = Config(**values)
    if not faults:
        faults += [f"{file}: {fault}" for fault in _contradictions(config)]
    if faults:
        raise ConfigError(faults)
    return config


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
        return f"{key}: must be a table, written [{key}], not {type_name(value)}"
    # The bare name is compared as well: a key outside of its table is a common slip.
    candidates = {name.rpartition(".")[2]: name for name in BY_KEY} | {name: name for name in BY_KEY}
    near = difflib.get_close_matches(key, candidates, n=1)
    if not near:
        return f"unknown key {key!r}; known are {', '.join(BY_KEY)}"
    return f"unknown key {key!r}; did you mean {candidates[near[0]]!r}?"


def _contradictions(config: Config) -> Iterator[str]:
    if config.kubernetes_retry_initial_seconds > config.kubernetes_retry_max_seconds:
        yield (
            f"kubernetes.retry_initial_seconds ({config.kubernetes_retry_initial_seconds:g}) is more than "
            f"kubernetes.retry_max_seconds ({config.kubernetes_retry_max_seconds:g})"
        )
