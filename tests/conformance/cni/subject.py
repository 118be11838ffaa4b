"""The plugin under test, and what is known of it: from VERSION, from its configuration, from its profile."""

import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from tests.conformance.cni.network import VERSIONS, Network, version_number
from tests.conformance.cni.profile import FEATURES, Profile

# Capabilities of CONVENTIONS.md which cases pass values for.
CAPABILITIES = ("portMappings", "ipRanges", "bandwidth", "dns", "ips", "mac", "aliases", "cgroupPath")


@dataclass(frozen=True)
class Subject:
    """A plugin to test. `failures` maps case numbers to the cause why this very build is known to fail them.

    `chances` are those of them which depend on the moment of a kill, and so may pass.
    """

    label: str
    executable: Path
    search: tuple[Path, ...]
    network: Network
    profile: Profile
    other: Path | None = None
    failures: dict[int, str] = field(default_factory=dict)
    chances: frozenset[int] = frozenset()

    @cached_property
    def versions(self) -> tuple[str, ...]:
        """Versions that every plugin of the network speaks, IPAM included, oldest first."""
        types = [entry["type"] for entry in self.network.plugins]
        types += [entry["ipam"]["type"] for entry in self.network.plugins if entry.get("ipam", {}).get("type")]
        spoken = set(VERSIONS)
        for kind in types:
            found = next((folder / kind for folder in self.search if (folder / kind).exists()), None)
            if found is not None:
                spoken &= set(supported_versions(found))
        return tuple(version for version in VERSIONS if version in spoken)

    @cached_property
    def own_versions(self) -> tuple[str, ...]:
        """Versions that the plugin under test speaks by itself."""
        return supported_versions(self.executable)

    @cached_property
    def newest(self) -> Network:
        """The network in the newest version that all its plugins speak: what cases use unless they say otherwise."""
        return self.network.at(self.versions[-1] if self.versions else self.network.version)

    def has(self, feature: str) -> bool:
        """Whether the plugin does this, as far as is known."""
        if feature == "delegated_ipam":
            return bool(self.network.ipam.get("type"))
        if feature == "ipam":
            return bool(self.network.ipam) and self.profile.has("static_ranges")
        if feature == "chain":
            return len(self.network.plugins) > 1
        return self.profile.has(feature)

    def need(self, *features: str) -> None:
        """Skip the case unless the plugin has all of these features."""
        for feature in features:
            if self.has(feature):
                continue
            reasons = {
                "delegated_ipam": "the configuration delegates no IPAM (ipam.type): the plugin allocates itself",
                "ipam": "the configuration has no pool of addresses (ipam.ranges or ipam.subnet)",
                "chain": "the configuration lists one plugin only",
            }
            pytest.skip(reasons[feature] if feature in reasons else self.profile.why_not(feature))

    def need_capability(self, name: str) -> None:
        """Skip the case unless some plugin of the network declares this capability."""
        if name not in self.network.capabilities:
            pytest.skip(f"the configuration declares no capability {name}")

    def need_version(self, version: str) -> None:
        """Skip the case unless the network can be used in this version, or in a later one."""
        newest = self.newest.version
        if version_number(newest) < version_number(version):
            pytest.skip(f"the newest version that all its plugins speak is {newest}, the case is of {version}")

    def need_state(self) -> None:
        """Skip the case unless the profile says where the plugin keeps its state."""
        if not self.profile.state.folder:
            pytest.skip(f"profile {self.profile.name} does not say where the plugin keeps its state (state.folder)")

    def codes(self, *names: str) -> tuple[int, ...]:
        """The plugin's own codes for these failures; empty, which allows any, where the profile gives none."""
        if not all(name in self.profile.codes for name in names):
            return ()
        return tuple(code for name in names for code in self.profile.codes[name])


def supported_versions(executable: Path) -> tuple[str, ...]:
    """What VERSION of a plugin lists; empty where it does not answer as it should."""
    import json

    done = subprocess.run(
        [executable],
        input=b'{"cniVersion": "1.0.0"}',
        env={"CNI_COMMAND": "VERSION", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    try:
        return tuple(json.loads(done.stdout)["supportedVersions"])
    except (ValueError, KeyError, TypeError):
        return ()


def of_options(
    plugin: Path, conf: Path, search: Sequence[Path], profile: Path | None, other: Path | None = None
) -> Subject:
    """The subject of a command line. Raises ValueError where its parts do not fit."""
    for given in (plugin, *([other] if other else [])):
        if not given.is_file():
            raise ValueError(f"{given} is no file")
    plugin, other = plugin.absolute(), other.absolute() if other else None
    network = Network.read(conf, plugin.name)
    read = Profile.read(profile) if profile else Profile()
    return Subject(
        plugin.name, plugin, (plugin.parent, *(folder.absolute() for folder in search)), network, read, other
    )


def known_failures(file: Path, label: str) -> tuple[dict[int, str], frozenset[int]]:
    """Causes by case number for one build, and the cases that fail by chance; from a TOML file of `[[failure]]`."""
    listed = [entry for entry in tomllib.loads(file.read_text())["failure"] if label in entry["builds"]]
    causes = {number: " ".join(entry["cause"].split()) for entry in listed for number in entry["cases"]}
    return causes, frozenset(number for entry in listed if entry.get("by_chance") for number in entry["cases"])


__all__ = ["CAPABILITIES", "FEATURES", "Subject", "known_failures", "of_options", "supported_versions"]
