"""The runtime's folder of network configurations, as the runtime reads it, and podwire's share of it."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni_plugin import config, ipam, jsontext
from cni_plugin.call import Call
from cni_plugin.net.state import State
from cni_plugin.spec import CniError

NETD = Path("/etc/cni/net.d")
BIN = Path("/opt/cni/bin")
_ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c",
    "CNI_NETNS": "/proc/self/ns/net",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
# What containerd and CRI-O look at; the first name in byte order is the pods' network.
_SUFFIXES = (".conf", ".conflist", ".json")


@dataclass
class ConfFile:
    """One file of the folder. `plugins` is empty where `fault` says that the runtime cannot read it."""

    path: Path
    name: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    plugins: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""

    @property
    def ours(self) -> list[dict[str, Any]]:
        """Its entries of type podwire."""
        return [plugin for plugin in self.plugins if plugin["type"] == "podwire"]

    def network(self, plugin: dict[str, Any]) -> config.Network:
        """An entry as the plugin would judge it at ADD. Raises CniError."""
        # libcni lays name and version of the list over each entry.
        version = {"cniVersion": self.document["cniVersion"]} if "cniVersion" in self.document else {}
        return judged({**plugin, **version, "name": self.name})


def judged(entry: dict[str, Any]) -> config.Network:
    """A configuration as podwire would judge it at ADD. Raises CniError with every fault."""
    # Behind another plugin it wants that one's result.
    before: dict[str, Any] = {"prevResult": {}} if entry.get("chained") else {}
    return config.network({**entry, **before}, Call(_ADD))


def read(netd: Path) -> list[ConfFile]:
    """The folder's files in the runtime's order; empty where there is no folder."""
    try:
        names = sorted(name for name in os.listdir(netd) if name.endswith(_SUFFIXES))
    except FileNotFoundError:
        return []
    return [_read(netd / name) for name in names]


def _read(path: Path) -> ConfFile:
    file = ConfFile(path)
    try:
        document = jsontext.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        file.fault = f"{fault}"
        return file
    if not isinstance(document, dict):
        file.fault = "it is no JSON object"
        return file
    plugins = document.get("plugins") if path.suffix == ".conflist" else [document]
    if not isinstance(plugins, list) or not plugins:
        file.fault = "it has no list of plugins"
        return file
    wrong = [each for each in plugins if not isinstance(each, dict) or not isinstance(each.get("type"), str)]
    if wrong:
        file.fault = f"plugin {jsontext.dumps(wrong[0])[:60]} has no type"
        return file
    file.document, file.plugins = document, plugins
    file.name = str(document.get("name", ""))
    return file


def networks(files: list[ConfFile]) -> list[config.Network]:
    """podwire's networks that the plugin accepts; what it refuses is the doctor's matter."""
    found = []
    for file in files:
        for plugin in file.ours:
            try:
                found.append(file.network(plugin))
            except CniError:
                continue
    return found


def state_dir(files: list[ConfFile]) -> Path:
    """The state folder that the first podwire network names, else the default."""
    for network in networks(files):
        return Path(network.state_dir)
    return Path(config.STATE_DIR)


@dataclass(frozen=True)
class Pool:
    """How full a range set is, in addresses. `foreign` ones belong to another plugin's pods."""

    network: str
    ranges: str
    size: int
    used: int
    cooling: int
    foreign: int

    @property
    def free(self) -> int:
        """What can be handed out, those that are cooling included: a tight pool takes them."""
        return max(0, self.size - self.used - self.foreign)

    @property
    def pressure(self) -> float:
        """The share that is taken, 0 to 1."""
        return 1 - self.free / self.size if self.size else 1.0


def pools(found: list[config.Network], state: State, cooling: set[str]) -> list[Pool]:
    """The use of every range set. `cooling` are the addresses whose time is not over."""
    return [
        Pool(
            network.name,
            str(range_set),
            range_set.size(),
            _within(range_set, state.addresses),
            _within(range_set, cooling),
            _within(range_set, set(state.foreign) - set(state.addresses)),
        )
        for network in found
        for range_set in network.range_sets
    ]


def _within(range_set: ipam.RangeSet, addresses: "dict[str, Any] | set[str]") -> int:
    return sum(1 for text in addresses if holds(range_set, text))


def holds(range_set: ipam.RangeSet, text: str) -> bool:
    """Whether the set may hand out this address; False for what is no address of its family."""
    try:
        return range_set.allows(ipam.parse_address(text))
    except ValueError:
        return False
