"""What a plugin does beyond what its VERSION and its configuration tell: a profile, read from a small TOML file.

Every key has a default, so a profile is optional; `profiles/` holds one for each plugin that this project runs the
suite against, and `docs/conformance-cni.md` explains the keys. An unknown key is an error, so that a misspelt one
cannot silently switch cases off.
"""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

PROFILES = Path(__file__).parent / "profiles"

# Feature -> what it means, for the reason of a skip. `True`/`False` is the value where no profile says otherwise.
FEATURES: dict[str, tuple[str, bool]] = {
    "ipv4": ("hands out IPv4 addresses", True),
    "ipv6": ("hands out IPv6 addresses", True),
    "range_sets": ("takes several range sets and gives an address of each", True),
    "host_end": ("makes a link on the node for every pod", True),
    "masquerade": ("masquerades with `ipMasq`", True),
    "node_traffic": ("lets the node and its pods talk", True),
    "pod_traffic": ("lets pods of one node talk", True),
    "outside_traffic": ("gives pods a way out of the node", True),
    "one_default_route": ("lets two networks in one pod both ask for the default route", True),
    "cni_args_ip": ("takes the address in CNI_ARGS IP= and args.cni.ips", True),
    "requested_address": ("takes addresses by the capability ips, args.cni.ips or IP=", True),
    "request_precedence": ("lets the capability ips win over `args`", False),
    "rejects_unknown_keys": ("refuses unknown configuration keys with code 2", False),
    "exclusions": ("leaves out addresses of `ipam.exclude`", False),
    "cooldown": ("lets a freed address rest while others are free", False),
    "sticky": ("gives a pod of the same name its address again", False),
    "hairpin": ("lets a pod reach its own hostPort", True),
    "hostport_localhost": ("answers hostPorts on the node's 127.0.0.1", True),
    "hostport_clash": ("refuses a hostPort that another pod holds", True),
    "static_mac": ("takes a MAC address by the capability mac", True),
    "mtu": ("takes the key `mtu`", True),
    "route_attributes": ("takes mtu, advmss, priority, table and scope of routes", True),
    "network_policy": ("enforces network policy from the first packet", False),
    "spoof_protection": ("drops what a pod sends from a foreign source", True),
    "conntrack": ("flushes the conntrack entries of a hostPort that ends", True),
    "traces": ("names the trace of TRACEPARENT in its log", False),
    "untyped_errors": ("may answer 999 to what a configuration holds", False),
    "static_ranges": ("keeps its pool in `ipam.ranges` or `ipam.subnet`", True),
}


@dataclass(frozen=True)
class State:
    """Where the plugin keeps what it knows between calls, as seen on the node.

    `folder` is the folder itself. `kept` are patterns (fnmatch, relative to the folder) of files which may stay after
    the last DEL; `locks` are patterns of lock files. `lives_over_reboot` says that the folder is meant to survive.
    """

    folder: str = ""
    kept: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    lives_over_reboot: bool = True
    lock_seconds: float = 10


@dataclass(frozen=True)
class Profile:
    """A profile as read. `codes` gives the plugin's own error codes by the suite's names for what went wrong."""

    name: str = "none"
    features: dict[str, bool] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    codes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    state: State = field(default_factory=State)
    companions: tuple[str, ...] = ()
    documentation: str = ""
    log: str = ""
    sticky_annotations: dict[str, str] = field(default_factory=dict)
    deny_all: tuple[str, ...] = ()
    check_covers: tuple[str, ...] | None = None

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises ValueError with the file's name and the key that is wrong."""
        document = tomllib.loads(file.read_text())
        _known(document, {entry.name for entry in fields(cls)}, file)
        document.setdefault("name", file.stem)
        document["features"] = features = document.get("features", {})
        _known(features, set(FEATURES), file)
        _known(document.get("reasons", {}), set(FEATURES), file)
        state = document.pop("state", {})
        _known(state, {entry.name for entry in fields(State)}, file)
        lists = {key: tuple(value) for key, value in document.items() if isinstance(value, list)}
        codes = {
            key: tuple(value) if isinstance(value, list) else (value,)
            for key, value in document.pop("codes", {}).items()
        }
        state = {key: tuple(value) if isinstance(value, list) else value for key, value in state.items()}
        return cls(**{**document, **lists}, codes=codes, state=State(**state))

    def has(self, feature: str) -> bool:
        """Whether the profile, or the default, says that the plugin does this."""
        return self.features.get(feature, FEATURES[feature][1])

    def why_not(self, feature: str) -> str:
        """The reason for a skip."""
        return self.reasons.get(feature) or f"profile {self.name}: no plugin that {FEATURES[feature][0]}"


def named(text: str) -> Path:
    """The file of `--profile`: a path, or the name of one that is shipped."""
    shipped = PROFILES / f"{text}.toml"
    return shipped if "/" not in text and shipped.exists() else Path(text)


def _known(found: dict[str, Any], known: set[str], file: Path) -> None:
    unknown = sorted(set(found) - known)
    if unknown:
        raise ValueError(f"{file}: unknown key {', '.join(unknown)}; known here: {', '.join(sorted(known))}")
