"""A network configuration as an operator writes it: a file with a list of plugins, or with a single one.

`Network` is a value. Cases lay their changes over the operator's file with `with_...`, so that what a case is about
differs and all else stays as the plugin's owner configured it.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

# In the order of their publication; https://github.com/containernetworking/cni, tags spec-v*.
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


def version_number(version: str) -> tuple[int, ...]:
    """`1.0.0` as numbers that compare."""
    return tuple(map(int, version.split(".")))


@dataclass(frozen=True)
class Network:
    """A network: its name, the version that is spoken, its plugins, and which of them is under test."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    position: int
    disable_check: bool = False

    @classmethod
    def read(cls, file: Path, plugin: str) -> Self:
        """Read a conf or conflist. Raises ValueError where the file cannot be what a runtime takes."""
        document = json.loads(file.read_text())
        if not isinstance(document, dict) or not document.get("name"):
            raise ValueError(f"{file}: a network configuration is a JSON object with a name")
        if "plugins" in document:
            plugins = document["plugins"]
            types = [entry.get("type") for entry in plugins]
            if plugin not in types:
                raise ValueError(f"{file}: no plugin of its list is of type {plugin}; there are {types}")
            position = types.index(plugin)
        else:
            plugins = [{key: value for key, value in document.items() if key not in ("name", "cniVersion")}]
            plugins[0]["type"] = plugin
            position = 0
        version = str(document.get("cniVersion", "0.1.0"))
        return cls(document["name"], version, tuple(plugins), position, bool(document.get("disableCheck")))

    @property
    def entry(self) -> Mapping[str, Any]:
        """The configuration of the plugin under test."""
        return self.plugins[self.position]

    @property
    def ipam(self) -> Mapping[str, Any]:
        """The first section `ipam` of the list; empty where there is none."""
        return next((entry["ipam"] for entry in self.plugins if entry.get("ipam")), {})

    @property
    def capabilities(self) -> set[str]:
        """Everything that some plugin of the list declares."""
        return {name for entry in self.plugins for name, on in entry.get("capabilities", {}).items() if on}

    def at(self, version: str) -> Self:
        """The same in another version of the specification."""
        return replace(self, version=version)

    def named(self, name: str) -> Self:
        """The same under another name; a bridge belongs to one network, so it gets another name as well."""
        plugins = [{**each, "bridge": f"br-{name}"[:15]} if each.get("bridge") else each for each in self.plugins]
        return replace(self, name=name, plugins=tuple(plugins))

    def with_entry(self, **changes: Any) -> Self:
        """Keys of the plugin under test laid over; None removes a key."""
        return self._changed(self.position, changes)

    def with_key(self, key: str, value: Any) -> Self:
        """One key, of every plugin that has it already; else of the one under test."""
        having = [index for index, entry in enumerate(self.plugins) if key in entry] or [self.position]
        changed = self
        for index in having:
            changed = changed._changed(index, {key: value})
        return changed

    def with_ipam(self, **changes: Any) -> Self:
        """Keys of the section `ipam` laid over; None removes a key."""
        index = next((index for index, entry in enumerate(self.plugins) if entry.get("ipam")), self.position)
        section = {**self.plugins[index].get("ipam", {}), **changes}
        return self._changed(index, {"ipam": {key: value for key, value in section.items() if value is not None}})

    def with_ranges(self, *sets: Sequence[Mapping[str, Any]] | str) -> Self:
        """These range sets, each given as ranges or as the text of one subnet; `routes` to match their families."""
        written = [[{"subnet": each}] if isinstance(each, str) else list(each) for each in sets]
        four, six = "0.0.0.0/0", "::/0"
        families = [six if ":" in str(each[0].get("subnet", "")) else four for each in written if each]
        routes = [{"dst": each} for each in dict.fromkeys(families)]
        legacy = dict.fromkeys(("subnet", "rangeStart", "rangeEnd", "gateway"))
        return self.with_ipam(ranges=written, routes=routes, **legacy)

    def document(self, position: int, **more: Any) -> dict[str, Any]:
        """What libcni writes to a plugin's stdin: name and version of the list inserted, `more` laid over."""
        document = copy.deepcopy(dict(self.plugins[position]))
        document.update({"name": self.name, "cniVersion": self.version}, **more)
        return {key: value for key, value in document.items() if value is not None}

    def _changed(self, position: int, changes: Mapping[str, Any]) -> Self:
        entry = {key: value for key, value in {**self.plugins[position], **changes}.items() if value is not None}
        plugins = (*self.plugins[:position], entry, *self.plugins[position + 1 :])
        return replace(self, plugins=plugins)
